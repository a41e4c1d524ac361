"""Reliability flags: reasons not to believe a robust accuracy.

Each kind of flag says when it is raised, what that means and what to do (docs/flags.md). To add one, write a
check, a function of the evidence that returns what it saw or None, and a line in `CHECKS`.
"""

from collections.abc import Iterator, Mapping

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens.models import frozen
from robustlens.reliability.checks import CHECKS, table
from robustlens.reliability.diagnostics import Diagnostics
from robustlens.reliability.flag import Check, Flag
from robustlens.reliability.state import State
from robustlens.threat import ThreatModel

__all__ = ["CHECKS", "Flag", "Check", "check", "table"]


def check(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    logits: Float[Tensor, "all c"] | None = None,
    *,
    threat: ThreatModel | None = None,
    standing: Bool[Tensor, " n"] | None = None,
    accuracy: float | None = None,
    fell: Mapping[str, tuple[int, bool]] | None = None,
) -> tuple[Flag, ...]:
    """The flags that a model raises.

    Costs at most about 500 forward passes of 64 images (a backward pass counted as one), nearly all of them
    for attacks on what stands: 200 queries of Square, unless the suite had a score-based attack, 100 gradient
    steps for `more-steps` and 20 for `huge-eps`.

    Args:
        model: left as it was, even where it changes its own parameters.
        x: some images on the model's device; a hundred are enough.
        y: their labels.
        logits: clean logits of all images of the evaluation; None: those of `x`.
        threat: what the attacks of the evaluation may do; without it the checks that attack are skipped.
        standing: which images of `x` stand after the evaluation; None: those that PGD-20 does not break.
        accuracy: share of all images that stand after the evaluation; None: as in `x`.
        fell: for each attack of the evaluation, in order, how many images fell to it first, and whether it
            uses gradients.
    """
    if len(x) == 0:
        return ()
    with frozen(model):
        seen = Diagnostics(
            model=model,
            x=x,
            y=y,
            given_logits=logits,
            threat=threat or ThreatModel("Linf", 0.0, _bounds(x)),
            stood=standing,
            accuracy=accuracy,
            fell=fell or {},
            state=State(model),
        )
        return tuple(_flags(seen, attacked=threat is not None))


def _flags(seen: Diagnostics, *, attacked: bool) -> Iterator[Flag]:
    """The flags that are up; the model is put back after every check, also one that fails."""
    for name, kind in CHECKS.items():
        if kind.attacks and not (attacked and seen.takes_one):
            continue
        try:
            found = kind.check(seen)
        finally:
            seen.state.restore()
        if found is not None:
            yield kind.flag(name, found)


def _bounds(x: Tensor) -> tuple[float, float]:
    """The range of the pixels, where no threat model says it."""
    low, high = float(x.min()), float(x.max())
    return low, high if high > low else low + 1.0
