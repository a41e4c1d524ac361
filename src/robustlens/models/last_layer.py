"""The last linear layer of a network, and the features that it reads."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models.hooks import matrix_layers, reading
from robustlens.models.inference import inference
from robustlens.models.probe import device_of, forward

_DISAGREEMENT = 0.01
"""Share of logits that may be missing: the products of some devices round as much."""


def last_linear(model: nn.Module, x: Float[Tensor, "n ..."], *, where: str = "model") -> str:
    """Name of the linear layer that gives the logits.

    Args:
        model: left as it was.
        x: an image, to find that layer by.
        where: what asks, for the error.

    Raises:
        ModelError: the last of the convolutions and linear layers that a forward pass calls is a convolution,
            or is called more than once.
    """
    layers = matrix_layers(model)
    names = {layer: name for name, layer in layers.items()}
    called: list[str] = []
    with reading(names, lambda layer, _: called.append(names[layer])), inference(model):
        forward(model, x[:1].to(device_of(model)))
    if not called or not isinstance(layers[called[-1]], nn.Linear) or called.count(called[-1]) > 1:
        last = f"{called[-1]!r}, {called.count(called[-1])} times" if called else "none"
        raise ModelError(f"{where}: found {last} as the last layer, expected a Linear layer, called once")
    return called[-1]


def agree(a: Float[Tensor, "n k"], b: Float[Tensor, "n k"], scale: Float[Tensor, "n k"]) -> bool:
    """Whether two tensors of logits are the same function of the images, but for rounding.

    Args:
        a: logits.
        b: what a layer gives.
        scale: sizes of the numbers that they were made of, which their rounding goes by.
    """
    rounding = 64 * torch.finfo(a.dtype).eps * scale.double().norm()
    apart = (a.double() - b.double()).norm()
    return bool(apart <= _DISAGREEMENT * b.double().norm() + rounding)


def forward_reading(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A forward pass: what the network returns, and what `layer` reads in it, call by call."""
    read: list[Tensor] = []
    with reading([layer], lambda _, tensor: read.append(tensor)):
        return model(x), read
