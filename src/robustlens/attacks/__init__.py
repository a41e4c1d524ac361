"""Attacks: each is one file, a frozen recipe for adversarial images.

To add one, write it against `Attack` and add a line to `ATTACKS`; the contract tests take it from there.
"""

from robustlens.attacks.adaptive_minimum_norm import AdaptiveMinimumNorm
from robustlens.attacks.apgd import APGD
from robustlens.attacks.base import (
    Attack,
    Crafted,
    Filling,
    NoInputGradientError,
    craft,
    gives_weight_gradients,
    tries_of,
)
from robustlens.attacks.compiled import CompiledPGD
from robustlens.attacks.ensemble import Ensemble
from robustlens.attacks.fab import FAB
from robustlens.attacks.inputs import trusted
from robustlens.attacks.minimum_norm import MinimumNorm
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.attacks.registry import ATTACKS, Entry, chosen, get, names, note, suites_in
from robustlens.attacks.square import Square
from robustlens.attacks.suites import SUITES, Suite

__all__ = [
    "APGD",
    "ATTACKS",
    "FAB",
    "FGSM",
    "PGD",
    "SUITES",
    "AdaptiveMinimumNorm",
    "Attack",
    "CompiledPGD",
    "Crafted",
    "Ensemble",
    "Entry",
    "Filling",
    "MinimumNorm",
    "NoInputGradientError",
    "Square",
    "Suite",
    "chosen",
    "craft",
    "get",
    "gives_weight_gradients",
    "names",
    "note",
    "suites_in",
    "tries_of",
    "trusted",
]
