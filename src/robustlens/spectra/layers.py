"""The layers of a network that are linear maps, and the size of what each of them reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens.errors import ConfigError
from robustlens.models import device_of, forward, inference
from robustlens.models.hooks import matrix_layers, reading

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as a linear map, bias aside.

    Attributes:
        module: the layer. size: height and width of the feature map that it reads; None for a linear layer.
        folded: its weight with a BatchNorm in it, instead of its own.
    """

    module: nn.Conv2d | nn.Linear
    size: Pair | None = None
    folded: Float64[Tensor, "outputs inputs ..."] | None = None

    @property
    def weight(self) -> Float64[Tensor, "outputs inputs ..."]:
        """In float64 on the CPU."""
        return self.module.weight.detach().cpu().double() if self.folded is None else self.folded

    def __str__(self) -> str:
        """For people: kind, channels, kernel, stride and feature map."""
        module = self.module
        if not isinstance(module, nn.Conv2d):
            return f"linear {module.in_features} -> {module.out_features}"
        extras = {"stride": module.stride, "dilation": module.dilation, "groups": (module.groups,)}
        shown = [f"{name} {_short(value)}" for name, value in extras.items() if set(value) != {1}]
        kernel, size = "x".join(map(str, module.kernel_size)), "x".join(map(str, self.size or ("?",)))
        return ", ".join(
            [f"conv {module.in_channels} -> {module.out_channels}, {kernel}", *shown, f"on {size}"]
        )


def trace(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Layer]:
    """The Conv2d and Linear layers that one forward pass in eval mode calls, with their feature-map sizes.

    Raises:
        ConfigError: a convolution sees feature maps of several sizes.
        ModelError: the model does not take images of that shape.
    """
    layers = matrix_layers(model)
    sizes: dict[nn.Module, set[Pair | None]] = {layer: set() for layer in layers.values()}

    def read(layer: nn.Module, x: Tensor) -> None:
        sizes[layer].add((x.shape[-2], x.shape[-1]) if isinstance(layer, nn.Conv2d) else None)

    with reading(sizes, read), inference(model):
        forward(model, blank(model, input_shape))
    for name, layer in layers.items():
        if len(sizes[layer]) > 1:
            several = ", ".join(sorted(map(str, sizes[layer])))
            raise ConfigError(f"spectrum: layer {name!r} sees feature maps of {several}, expected one size")
    return {name: Layer(layer, size) for name, layer in layers.items() for size in sizes[layer]}


def blank(model: nn.Module, input_shape: Sequence[int]) -> Float[Tensor, "1 ..."]:
    """A black image for `model`, of its dtype and on its device."""
    kind = next(model.parameters(), torch.zeros(())).dtype
    return torch.zeros((1, *input_shape), dtype=kind, device=device_of(model))


def pair(sides: Sequence[int]) -> Pair:
    """Two numbers as torch's modules keep them."""
    return sides[0], sides[1]


def _short(sides: Sequence[int]) -> str:
    """One number where all are equal."""
    return str(sides[0]) if len(set(sides)) == 1 else "x".join(map(str, sides))
