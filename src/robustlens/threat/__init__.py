"""Threat models: the images that an attacker may choose from.

A threat model is a norm ball around the image cut with the pixel box. Everything that depends on the norm
lives here, in one small class per norm: distance, Euclidean projection, steepest ascent, random start. An
attack is written once and works for every norm.
"""

from robustlens.threat.filling import greedy_fill, water_fill
from robustlens.threat.norms import NORMS, Norm
from robustlens.threat.threat_model import ThreatModel, checked_threat

__all__ = ["NORMS", "Norm", "ThreatModel", "checked_threat", "greedy_fill", "water_fill"]
