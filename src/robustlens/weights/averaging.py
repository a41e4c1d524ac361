"""A running average of the weights."""

import copy

import torch
from torch import nn

from robustlens.errors import ConfigError
from robustlens.models.tensors import make_writable


class ExponentialMovingAverage:
    """A running average of the weights, `average <- decay * average + (1 - decay) * w`, after each step.

    Buffers are copied, not averaged: running statistics are averages already. In its first steps the
    decay is lowered to (1 + t) / (10 + t), so that the average does not remember the initial weights.

    Args:
        model: the network being trained.
        decay: share of the past that stays, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"ema.decay: found {decay}, expected a number in (0, 1)")
        self.model = model
        self.decay = decay
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        make_writable(self.average)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights as they are now to the average."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        copied = list(self.average.buffers())
        if copied:
            torch._foreach_copy_(copied, list(self.model.buffers()))
