"""Reliability flags: reasons not to believe a robust accuracy.

Each flag says when it is raised, what that means and what to do. A check is a function of the evidence that
returns a message or None, and one line in `CHECKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks.base import Goal, input_gradient
from robustlens.models import held_still


@dataclass(frozen=True)
class Flag:
    """A named reason for doubt, with what was seen, what it means and what to do in one message."""

    name: str
    message: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the checks look at: the model in eval mode, some images, and the clean logits of all images."""

    model: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, " n"]
    logits: Float[Tensor, "all c"]


def randomised(seen: Evidence) -> str | None:
    """Raised if two identical passes in eval mode give different logits."""
    with torch.no_grad():
        gap = (seen.model(seen.x) - seen.model(seen.x)).nan_to_num(0.0).abs().max().item()
    if gap == 0:
        return None
    return (
        f"two identical passes differ by up to {gap:.2g}; an attack sees another model at every step and the "
        "accuracy is too high; remove the randomness or average the gradient over passes (EOT)"
    )


def not_finite(seen: Evidence) -> str | None:
    """Raised if an image gets a logit that is NaN or plus infinity."""
    bad = int(losses.is_broken(seen.logits).sum())
    if bad == 0:
        return None
    return (
        f"{bad} of {len(seen.logits)} images get NaN or infinite logits and count as wrong; check the model"
    )


def vanishing_gradient(seen: Evidence) -> str | None:
    """Raised if the input gradient of the margin is exactly zero for 5 % of the images or more."""
    dead = _dead(seen, "margin")
    if dead < 0.05:
        return None
    return (
        f"the input gradient is zero for {dead:.0%} of the images; gradient attacks are blind there and the "
        "accuracy is too high; look for saturation, rounding or clamping, and use a score-based attack"
    )


def saturated(seen: Evidence) -> str | None:
    """Raised if cross entropy has no gradient, but the margin has one, for 5 % of the images or more."""
    dead = _dead(seen, "ce") - _dead(seen, "margin")
    if dead < 0.05:
        return None
    return (
        f"the model is so sure that cross entropy has no float32 gradient for {dead:.0%} of the images; "
        "FGSM, PGD on it, smoothness and landscapes are too optimistic there; believe the margin attack (cw)"
    )


def _dead(seen: Evidence, loss: str) -> float:
    """Share of images whose input gradient of `loss` is exactly zero although the loss is finite."""
    goal = Goal.of(seen.model, seen.x, seen.y, loss, targeted=False)
    gradient, value, _ = input_gradient(seen.model, seen.x, goal)
    zero = gradient.flatten(1).abs().amax(1) == 0
    return (zero & value.isfinite()).float().mean().item()


CHECKS: dict[str, Callable[[Evidence], str | None]] = {
    "randomised": randomised,
    "not-finite": not_finite,
    "vanishing-gradient": vanishing_gradient,
    "saturated": saturated,
}
"""Every check, by the name of its flag."""


def check(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    logits: Float[Tensor, "all c"] | None = None,
) -> tuple[Flag, ...]:
    """The flags that the model raises.

    Args:
        model: left as it was.
        x: some images; a hundred are enough.
        y: their labels.
        logits: clean logits of all images of the evaluation; None to take those of `x`.
    """
    with held_still(model):
        if logits is None:
            with torch.no_grad():
                logits = model(x)
        seen = Evidence(model, x, y, logits)
        found = {name: check(seen) for name, check in CHECKS.items()}
    return tuple(Flag(name, message) for name, message in found.items() if message)
