"""Objectives: what training minimises, per example.

An objective receives x_adv and never crafts it, so that weight perturbation, landscapes and gap
measurements can evaluate it at other weights without a new attack. It says which attack makes its x_adv.
To add one: a frozen dataclass in a room here and a line in `OBJECTIVES`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from robustlens.errors import ConfigError
from robustlens.objectives.adversarial import MART, TRADES, CrossEntropy, LogitPairing
from robustlens.objectives.base import InnerAttack, Objective, inner_fgsm, inner_pgd, takes_soft_labels
from robustlens.objectives.linearity import LinearityAttack, LocalLinearity
from robustlens.objectives.smooth import CURE, GradientPenalty
from robustlens.objectives.virtual import VAT, VirtualAdversary

__all__ = [
    "CURE",
    "MART",
    "OBJECTIVES",
    "TRADES",
    "VAT",
    "CrossEntropy",
    "GradientPenalty",
    "InnerAttack",
    "LinearityAttack",
    "LocalLinearity",
    "LogitPairing",
    "Objective",
    "VirtualAdversary",
    "inner_pgd",
    "get",
    "inner_fgsm",
    "options_of",
    "takes_soft_labels",
]

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "standard": lambda label_smoothing=0.0: CrossEntropy(None, label_smoothing),
    "fgsm": lambda label_smoothing=0.0: CrossEntropy(inner_fgsm, label_smoothing),
    "at": lambda label_smoothing=0.0: CrossEntropy(inner_pgd("ce"), label_smoothing),
    "trades": TRADES,
    "mart": MART,
    "alp": LogitPairing,
    "llr": LocalLinearity,
    "cure": CURE,
    "vat": VAT,
    "gradient-penalty": GradientPenalty,
}
"""Objectives by name; the arguments are the options that a recipe may give."""


def get(name: str, **options: Any) -> Objective:
    """The objective `name` with `options`, e.g. `get("trades", beta=6.0)`.

    Raises:
        ConfigError: unknown name or option, or an option that is not a number in range.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: found {name!r}, expected one of {', '.join(OBJECTIVES)}")
    for option, value in options.items():
        _check_option(name, option, value)
    return OBJECTIVES[name](**options)


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options of a registered objective."""
    return tuple(p for p in inspect.signature(OBJECTIVES[name]).parameters if p != "inner_attack")


def _check_option(name: str, option: str, value: Any) -> None:
    """Refuse what no objective takes: an option with a whole default is a whole number."""
    known = options_of(name)
    if option not in known:
        expected = f"expected one of {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"objective_options.{option}: unknown option of {name!r}; {expected}")
    whole = isinstance(inspect.signature(OBJECTIVES[name]).parameters[option].default, int)
    top = 1.0 if option == "label_smoothing" else float("inf")
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < top:
        expected = "a whole number" if whole else "a number"
        raise ConfigError(f"objective_options.{option}: found {value!r}, expected {expected} in [0, {top:g})")
