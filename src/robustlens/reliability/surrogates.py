"""Layers with the same answers and another gradient: what attacks follow in place of a useless one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustlens import noise
from robustlens.reliability.responses import spread

WIDTH = 0.25
"""Standard deviation of the noise that smooths a layer, in standard deviations of its input."""
_DRAWS = {"each value": 8, "each place": 16, "all": 64}
"""Pairs of draws to a gradient, by what an output depends on."""


class StraightThrough(nn.Module):
    """A layer whose gradient is that of the identity.

    Bengio, Leonard and Courville 2013; as an attack BPDA, Athalye, Carlini and Wagner 2018, section 4.1.

    Args:
        layer: its output has the shape of its input.
    """

    surrogate = "straight-through"

    def __init__(self, layer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return _Replaced.apply(x, self.layer, lambda x, weights: weights)


class Smoothed(nn.Module):
    """A layer whose gradient is that of its mean under Gaussian noise on its input.

    By Stein's identity that is the mean of secants, (f(x + s u) - f(x - s u)) u / 2 s over normal u, which
    asks nothing of autograd. Where input and output have one shape each value is taken to depend on its own
    input, and where they have the same rows and columns on those of its place; otherwise on all. What is left
    out by that would be noise for the most part. The draws belong to the values of x, so that batches do not
    matter.

    Args:
        layer: any function of one tensor.
        x: inputs of it, as observed: they set the width of the noise.
    """

    surrogate = "smoothed"

    def __init__(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.width = WIDTH * spread(x)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return _Replaced.apply(x, self.layer, self._gradient)

    def _gradient(self, x: Tensor, weights: Tensor) -> Tensor:
        """Gradient of the weighted sum of the smoothed outputs."""
        depends = _dependence(x, weights)
        keys, gradient = noise.keys(x, 0), torch.zeros_like(x)
        for draw in range(_DRAWS[depends]):
            u = noise.normal(noise.fold(keys, draw), x)
            change = self.layer(x + self.width * u) - self.layer(x - self.width * u)
            response = (weights * change).nan_to_num(0.0, 0.0, 0.0)
            if depends == "each place":
                response = response.sum(1, keepdim=True)
            elif depends == "all":
                response = response.flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
            gradient += response * u
        return gradient / (2 * self.width * _DRAWS[depends])


class MeanOverDraws(nn.Module):
    """The mean logits of a random network over draws, so that gradients are means over draws too.

    Expectation over transformation (Athalye, Engstrom, Ilyas and Kwok 2018), of the logits.

    Args:
        network: draws random numbers in every pass.
        draws: passes to an answer.
    """

    surrogate = "mean over draws"

    def __init__(self, network: nn.Module, draws: int = 20) -> None:
        super().__init__()
        self.network, self.draws = network, draws

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the logits."""
        return torch.stack([self.network(x) for _ in range(self.draws)]).mean(0)


def surrogate_of(layer: Callable[[Tensor], Tensor], x: Tensor, kind: str) -> StraightThrough | Smoothed:
    """The replacement of a layer: straight-through for gradients that are absent, else a smoothed one.

    Args:
        layer: of one tensor.
        x: inputs of it.
        kind: as `responses.useless_gradient` says.
    """
    with torch.no_grad():
        keeps_shape = layer(x.clone()).shape == x.shape
    return StraightThrough(layer) if keeps_shape and kind in ("missing", "zero") else Smoothed(layer, x)


def _dependence(x: Tensor, output: Tensor) -> str:
    if x.shape == output.shape:
        return "each value"
    return "each place" if x.ndim > 2 and x.shape[2:] == output.shape[2:] else "all"


class _Replaced(torch.autograd.Function):
    """A function with a gradient of its own, called with the input and the gradient of the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, gradient: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gradient = gradient
        output = layer(x.clone())
        return output if output.is_floating_point() else output.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return ctx.gradient(x, weights[0]), None, None
