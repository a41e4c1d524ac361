"""Reliability flags: reasons not to believe a robust accuracy.

Each flag says when it is raised, what that means and what to do. A check is a function of the model and a
few images that returns a message or None, and one line in `CHECKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.attacks.base import Goal, input_gradient
from robustlens.models import held_still


@dataclass(frozen=True)
class Flag:
    """A named reason for doubt, with what was seen, what it means and what to do in one message."""

    name: str
    message: str


def randomised(model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> str | None:
    """Raised if two identical passes in eval mode give different logits."""
    with torch.no_grad():
        gap = (model(x) - model(x)).nan_to_num(0.0).abs().max().item()
    if gap == 0:
        return None
    return (
        f"two identical passes differ by up to {gap:.2g}; an attack sees another model at every step and the "
        "accuracy is too high; remove the randomness or average the gradient over passes (EOT)"
    )


def not_finite(model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> str | None:
    """Raised if a logit is NaN or infinite."""
    with torch.no_grad():
        bad = int((~torch.isfinite(model(x))).any(1).sum())
    if bad == 0:
        return None
    return (
        f"{bad} of {len(x)} images get logits that are NaN or infinite; these count as wrong; check the model"
    )


def vanishing_gradient(model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> str | None:
    """Raised if the input gradient of the margin is exactly zero for 5 % of the images or more."""
    gradient, value, _ = input_gradient(model, x, Goal.of(model, x, y, "margin", targeted=False))
    zero = gradient.flatten(1).abs().amax(1) == 0
    dead = (zero & value.isfinite()).float().mean().item()
    if dead < 0.05:
        return None
    return (
        f"the input gradient is zero for {dead:.0%} of the images; gradient attacks are blind there and the "
        "accuracy is too high; look for saturation, rounding or clamping, and use a score-based attack"
    )


CHECKS: dict[str, Callable[[nn.Module, Tensor, Tensor], str | None]] = {
    "randomised": randomised,
    "not-finite": not_finite,
    "vanishing-gradient": vanishing_gradient,
}
"""Every check, by the name of its flag."""


def check(model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> tuple[Flag, ...]:
    """The flags that the model raises on these images (a hundred are enough)."""
    with held_still(model):
        found = {name: check(model, x, y) for name, check in CHECKS.items()}
    return tuple(Flag(name, message) for name, message in found.items() if message)
