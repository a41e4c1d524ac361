"""Reliability flags: reasons to doubt a robust accuracy.

Each check says when its flag is raised, what that means and what to do (docs/flags.md). To add one, write a
function of the `Diagnostics` that returns what it observed or None, and a line in `CHECKS`.

`planted` asks the attacks instead of the model: do they find adversarial images that are there for certain?
`adaptive_copy` lets them search around layers whose gradient is useless.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens.machine import float32_products
from robustlens.models import frozen
from robustlens.reliability import outputs
from robustlens.reliability.adaptive import AdaptiveCopy, adaptive_copy
from robustlens.reliability.checks import CHECKS, Check, table
from robustlens.reliability.diagnostics import Diagnostics
from robustlens.reliability.planted_images import PlantedTest, planted
from robustlens.reliability.state import ModelState
from robustlens.results import Flag
from robustlens.threat import ThreatModel

__all__ = [
    "CHECKS",
    "AdaptiveCopy",
    "Check",
    "PlantedTest",
    "adaptive_copy",
    "check",
    "is_randomised",
    "planted",
    "table",
]


def check(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    logits: Float[Tensor, "all c"] | None = None,
    *,
    threat: ThreatModel | None = None,
    robust: Bool[Tensor, " n"] | None = None,
    accuracy: float | None = None,
    broken_by: Mapping[str, tuple[int, bool]] | None = None,
) -> tuple[Flag, ...]:
    """The flags that a model raises.

    Costs at most about 500 forward passes of 64 images (a backward pass counted as one), nearly all of them
    for attacks on survivors: 200 queries of Square, unless the suite had a score-based attack, 100 gradient
    steps for `more-steps` and 20 for `huge-eps`. They search on a faster copy, where `models.fast_copy` gives
    one; the model itself judges what they find.

    Args:
        model: left as it was, even where it changes its own parameters.
        x: some images on the model's device; a hundred are enough.
        y: their labels.
        logits: clean logits of all images of the evaluation; None: those of `x`.
        threat: what the attacks of the evaluation may do; without it the checks that attack are skipped.
        robust: which images of `x` survived the evaluation; None: those that PGD-20 does not break.
        accuracy: share of all images that survived the evaluation; None: as in `x`.
        broken_by: for each attack of the evaluation, in order, how many images it broke first, and whether
            it uses gradients.
    """
    if len(x) == 0:
        return ()
    with frozen(model), float32_products():
        diagnostics = Diagnostics(
            model=model,
            x=x,
            y=y,
            given_logits=logits,
            threat=threat or ThreatModel("Linf", 0.0, _bounds(x)),
            robust=robust,
            accuracy=accuracy,
            broken_by=broken_by or {},
            state=ModelState(model),
        )
        return tuple(_flags(diagnostics, attacked=threat is not None))


def is_randomised(model: nn.Module, x: Float[Tensor, "n ..."]) -> bool:
    """Whether the model draws random numbers, so that its flag `randomised` goes up.

    Args:
        model: left as it was.
        x: some images on the model's device, at least one.
    """
    with frozen(model), float32_products():
        y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        diagnostics = Diagnostics(model, x, y, ThreatModel("Linf", 0.0, _bounds(x)), ModelState(model))
        return outputs.randomised(diagnostics) is not None


def _flags(diagnostics: Diagnostics, *, attacked: bool) -> Iterator[Flag]:
    """The flags that are raised; the model is put back after every check, also one that fails."""
    for name, each in CHECKS.items():
        if each.attacks and not (attacked and diagnostics.takes_single_images):
            continue
        try:
            observed = each.observe(diagnostics)
        finally:
            diagnostics.state.restore()
        if observed is not None:
            yield each.flag(name, observed)


def _bounds(x: Tensor) -> tuple[float, float]:
    """The range of the pixels, where no threat model says it."""
    low, high = float(x.min()), float(x.max())
    return low, high if high > low else low + 1.0
