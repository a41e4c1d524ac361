"""Certified radii: lower bounds on the distance to the nearest adversarial image."""

from robustlens.certification.margin import certificate

__all__ = ["certificate"]
