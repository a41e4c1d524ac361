"""Training: recipe -> data -> batch -> attack -> objective at w (or w + v) -> step -> checkpoint."""

from robustlens.training.trainer import train

__all__ = ["train"]
