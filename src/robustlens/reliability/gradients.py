"""Checks of the input gradient, and of the loss and the input that it belongs to."""

import torch
from jaxtyping import Bool
from torch import Tensor

from robustlens import noise
from robustlens.attacks.base import Goal, input_gradient
from robustlens.errors import ModelError
from robustlens.reliability.adaptive import find
from robustlens.reliability.diagnostics import Diagnostics

_SHARE = 0.05
"""Share of the images without a gradient from which on a flag is raised."""

_LEVELS, _INCREMENTS = 16, 8
_IMAGES = 2
_NAMED = 5


def vanishing_gradient(diagnostics: Diagnostics) -> str | None:
    """The margin, unlike cross entropy, has a gradient however sure a sound model is."""
    dead = _dead(diagnostics, "margin").float().mean().item()
    return f"the input gradient is zero for {dead:.0%} of the images" if dead >= _SHARE else None


def useless(diagnostics: Diagnostics) -> str | None:
    """Layers that are not random, by name; those that are have a flag of their own."""
    try:
        layers = [each for each in find(diagnostics.model, diagnostics.x) if each.kind != "random"]
    finally:
        diagnostics.state.restore()
    if not layers:
        return None
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return "gradient of " + ", ".join(f"{each.name} ({each.kind})" for each in layers[:_NAMED]) + more


def saturated(diagnostics: Diagnostics) -> str | None:
    """Images without a gradient of cross entropy that do have one of the margin."""
    dead = (_dead(diagnostics, "ce") & ~_dead(diagnostics, "margin")).float().mean().item()
    if dead < _SHARE:
        return None
    kind = str(diagnostics.x.dtype).removeprefix("torch.")
    return f"the model is so sure that cross entropy has no {kind} gradient for {dead:.0%} of the images"


def quantised(diagnostics: Diagnostics) -> str | None:
    """A staircase instead of a ramp, at every brightness.

    Half of an image's pixels, drawn at random, are painted in one grey, which brightens from each of 16
    levels by 1/255 of the pixel range in 8 increments. The grey pixels cross the steps of a quantiser all at
    once, so rounding to 8 bits or fewer shows as constant logits with at most two jumps. bfloat16 rounds too,
    but relative to the value, so that some levels are smooth; and a dead unit is not dead at every level.
    """
    images = diagnostics.x[: min(_IMAGES, len(diagnostics.x))]
    jumps = [_jumps(diagnostics, image[None]) for image in images]
    if not jumps or not all(jump is not None and jump <= _INCREMENTS // 4 for jump in jumps):
        return None
    return "logits stand still, but for jumps, while pixels brighten by less than 1/255 of their range"


def _jumps(diagnostics: Diagnostics, x: Tensor) -> int | None:
    """The largest number of increments that move the logits, of all levels; None where nothing moves them."""
    low, high = diagnostics.threat.bounds
    levels = torch.linspace(0.03, 0.96, _LEVELS, dtype=x.dtype, device=x.device)
    ramp = torch.arange(_INCREMENTS + 1, dtype=x.dtype, device=x.device) / (255 * _INCREMENTS)
    greys = low + (high - low) * (levels[:, None] + ramp).view(-1, *[1] * (x.ndim - 1))
    painted = noise.uniform(noise.keys(x, 0), x) < 0.5
    logits = diagnostics.run(torch.where(painted, greys, x)).view(_LEVELS, len(ramp), -1)
    far = (logits[1:, 0] - logits[:-1, 0]).abs().max()
    if not far > 0:
        return None
    moved = logits.diff(dim=1).abs().amax(2) > 1e-4 * far  # a level lies 127 increments from the next
    return int(moved.sum(1).max())


def _dead(diagnostics: Diagnostics, loss: str) -> Bool[Tensor, " n"]:
    """Mask of the images with a finite value of the loss whose input gradient says nothing.

    Of the margin: where by the gradient no image of the whole box differs by more than rounding. Of cross
    entropy, which falls towards zero itself: where the gradient is below the smallest normal number.
    """
    try:
        goal = Goal.of(diagnostics.model, diagnostics.x, diagnostics.y, loss, targeted=False)
        gradient, value, _ = input_gradient(diagnostics.model, diagnostics.x, goal)
    except ModelError:  # the logits do not depend on the input through autograd
        return torch.ones_like(diagnostics.y, dtype=torch.bool)
    finally:
        diagnostics.state.restore()
    size = gradient.flatten(1).abs()
    if loss == "ce":
        return (size.amax(1) < torch.finfo(gradient.dtype).tiny) & value.isfinite()
    low, high = diagnostics.threat.bounds
    largest_change = size.double().sum(1) * (high - low)
    rounding = torch.finfo(torch.float32).eps * diagnostics.logits.abs().amax(1)
    return (largest_change <= rounding) & value.isfinite()
