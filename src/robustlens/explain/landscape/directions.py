"""Directions in weight space, and anything evaluated along them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustlens.errors import ConfigError
from robustlens.weights import named_matrix_parameters, offset_weights

Direction = dict[str, Tensor]
"""By how much each parameter moves, by its name; parameters that are not in it stay."""
Value = TypeVar("Value")


def filter_normalised(model: nn.Module, generator: torch.Generator) -> Direction:
    """A Gaussian direction, each filter scaled to the norm of the same filter of the weights.

    A filter is a slice along the first dimension (Li et al. 2018, section 4). Parameters with one
    dimension, and those of normalisation, do not move and are not in the result.
    """
    direction = {}
    for name, weight in named_matrix_parameters(model).items():
        draw = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
        rows = draw.flatten(1)
        lengths = weight.detach().float().cpu().flatten(1).norm(dim=1, keepdim=True)
        rows = rows * lengths / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        direction[name] = rows.view(weight.shape).to(weight)
    return direction


def moved_weights(model: nn.Module, direction: Direction) -> list[nn.Parameter]:
    """The parameters that a direction moves, in its order; also of a scripted network.

    Raises:
        ConfigError: it moves none.
    """
    if not direction:
        raise ConfigError("weights: found none to move, expected a network with parameters")
    parameters = dict(model.named_parameters())
    return [parameters[name] for name in direction]


def values_on_line(
    model: nn.Module, direction: Direction, alphas: Sequence[float], value: Callable[[], Value]
) -> Iterator[Value]:
    """Anything, evaluated at w + alpha d for each alpha in turn; between two values the weights are w."""
    weights = moved_weights(model, direction)
    for alpha in alphas:
        with offset_weights(weights, list(direction.values()), alpha):
            here = value()
        yield here


def values_on_plane(
    model: nn.Module,
    directions: tuple[Direction, Direction],
    alphas: Sequence[float],
    value: Callable[[], Value],
) -> Iterator[Value]:
    """As `values_on_line`, at w + a d + b e for each a in turn and, for each of these, each b.

    Where b is 0 the weights are those of `values_on_line` d, bit for bit.
    """
    first, second = directions
    weights = moved_weights(model, first)
    for alpha in alphas:
        with offset_weights(weights, list(first.values()), alpha):
            line = list(values_on_line(model, second, alphas, value))
        yield from line
