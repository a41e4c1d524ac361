"""Objectives: the loss that training minimises, per example.

An objective receives x_adv and never crafts it, so that weight perturbation, landscapes and gap
measurements can evaluate it at other weights without a new attack. It says which attack makes its x_adv.
To add one: a frozen dataclass in a file here and a line in `OBJECTIVES`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from robustlens.objectives.adversarial import MART, TRADES, CrossEntropy, LogitPairing
from robustlens.objectives.base import (
    InnerAttack,
    Objective,
    after,
    inner_fgsm,
    inner_pgd,
    takes_second_derivatives,
    takes_soft_labels,
)
from robustlens.objectives.intervals import IntervalBounds
from robustlens.objectives.linearity import LinearityAttack, LocalLinearity
from robustlens.objectives.smooth import CURE, GradientPenalty
from robustlens.objectives.virtual import VAT, VirtualAdversary
from robustlens.registry import Registry

__all__ = [
    "CURE",
    "MART",
    "OBJECTIVES",
    "TRADES",
    "VAT",
    "CrossEntropy",
    "GradientPenalty",
    "InnerAttack",
    "IntervalBounds",
    "LinearityAttack",
    "LocalLinearity",
    "LogitPairing",
    "Objective",
    "VirtualAdversary",
    "after",
    "get",
    "inner_fgsm",
    "inner_pgd",
    "takes_second_derivatives",
    "takes_soft_labels",
]

OBJECTIVES: Registry[Callable[..., Objective]] = Registry(
    "objective",
    {
        "standard": partial(CrossEntropy, None),
        "fgsm": partial(CrossEntropy, inner_fgsm),
        "at": partial(CrossEntropy, inner_pgd("ce")),
        "trades": TRADES,
        "mart": MART,
        "alp": LogitPairing,
        "llr": LocalLinearity,
        "cure": CURE,
        "vat": VAT,
        "gradient-penalty": GradientPenalty,
        "ibp": IntervalBounds,
    },
    hidden=("inner_attack", "done"),
    factories=True,
    result_type=Objective,
)
"""Objectives by name; their parameters are the options of a recipe, of the types that they declare."""


def get(name: str, **options: Any) -> Objective:
    """The objective `name`, or "package.module:factory", with `options`: `get("trades", beta=6.0)`.

    Raises:
        ConfigError: unknown name or option, or an option of another type or out of range.
    """
    return OBJECTIVES.build(name, options=options, where="objective_options")
