"""The layers of a network that are linear maps, and the size of what each of them reads."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens.errors import ConfigError
from robustlens.models import device_of
from robustlens.models.folding import scale_and_shift
from robustlens.models.hooks import Convolutional, Transposed

Pair = tuple[int, int]
Size = tuple[int, ...]
"""Sides of a feature map, or one number for each of them."""

PROJECTIONS = ("q", "k", "v", "out_proj")
"""Parts of `nn.MultiheadAttention`: the matrices of queries, keys and values, and that of its output."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_COVERED = (nn.Linear, *get_args(Convolutional), *_BATCH_NORMS, nn.MultiheadAttention)
_STEPS = ("forward", "_conv_forward")


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer, or a projection of an attention layer, as a linear map, bias aside.

    Attributes:
        module: the layer: a convolution, a linear layer, attention, or a BatchNorm in eval mode.
        size: sides of the feature map that a convolution reads; None for other layers.
        folded: its weight with a BatchNorm in it, instead of its own.
        written: sides of the map that a convolution gives, where a call of it was seen.
        projection: which of `PROJECTIONS`, of an attention layer.
    """

    module: nn.Module
    size: Size | None = None
    folded: Float64[Tensor, "outputs inputs ..."] | None = None
    written: Size | None = None
    projection: str = ""

    @property
    def weight(self) -> Float64[Tensor, "outputs ..."]:
        """In float64 on the CPU: a matrix or kernel (outputs, inputs, ...), or a BatchNorm's (channels,)."""
        return self._own_weight().detach().cpu().double() if self.folded is None else self.folded

    @property
    def is_convolution(self) -> bool:
        """Whether it has a feature map."""
        return isinstance(self.module, Convolutional)

    @property
    def is_scale(self) -> bool:
        """Whether it is a factor for each channel."""
        return isinstance(self.module, _BATCH_NORMS)

    @property
    def narrows(self) -> bool:
        """Whether it gives fewer numbers than it reads, so that some changes of its input leave no trace."""
        if self.is_scale:
            return False
        if not isinstance(self.module, Convolutional):
            outputs, inputs = self.weight.shape
            return outputs < inputs
        reads, gives = self.module.in_channels, self.module.out_channels
        return gives * math.prod(self.written or ()) < reads * math.prod(self.size or ())

    def __str__(self) -> str:
        """For people: kind, channels, kernel, stride and feature map."""
        module = self.module
        if self.is_scale:
            return f"scale of {len(self.weight)} channels"
        if not isinstance(module, Convolutional):
            outputs, inputs = self.weight.shape
            return f"linear {inputs} -> {outputs}"
        extras = {"stride": module.stride, "dilation": module.dilation, "groups": (module.groups,)}
        shown = [f"{name} {_short(value)}" for name, value in extras.items() if set(value) != {1}]
        kind = "transposed conv" if isinstance(module, Transposed) else "conv"
        kernel, size = "x".join(map(str, module.kernel_size)), "x".join(map(str, self.size or ("?",)))
        return ", ".join(
            [f"{kind} {module.in_channels} -> {module.out_channels}, {kernel}", *shown, f"on {size}"]
        )

    def _own_weight(self) -> Tensor:
        module = self.module
        if isinstance(module, nn.MultiheadAttention):
            return _projection(module, self.projection)
        if isinstance(module, _BATCH_NORMS):
            return scale_and_shift(module)[0]
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight


def is_covered(module: nn.Module) -> bool:
    """Whether it is a linear map, or made of such, that this package knows, and computes as torch's own does.

    A subclass with a `forward` of its own may do something else, and a BatchNorm without running statistics
    divides by those of the batch.
    """
    if isinstance(module, _BATCH_NORMS) and not isinstance(module.running_mean, Tensor):
        return False
    kind = next((kind for kind in _COVERED if isinstance(module, kind)), None)
    if kind is None or replaced_methods(module):
        return False
    return all(getattr(type(module), step, None) is getattr(kind, step, None) for step in _STEPS)


def replaced_methods(module: nn.Module) -> list[str]:
    """Methods of its class in whose place this module got others, which may make another function of it.

    Those that every module has, such as `train`, compute nothing, but for `forward`.
    """
    kind = type(module)
    own = [name for name in vars(module) if name == "forward" or not hasattr(nn.Module, name)]
    return [name for name in own if inspect.isroutine(getattr(kind, name, None))]


def parts_of(name: str, module: nn.Module, size: Size | None, written: Size | None) -> dict[str, Layer]:
    """The linear maps of a covered layer by name; an attention layer has four."""
    if isinstance(module, nn.MultiheadAttention):
        return {f"{name}.{part}".strip("."): Layer(module, projection=part) for part in PROJECTIONS}
    return {name: Layer(module, size, written=written)}


def padding_of(module: Convolutional) -> list[Pair]:
    """Pixels that a convolution adds at either end of each side."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        reaches = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return [(reach // 2, reach - reach // 2) for reach in reaches]
    return [(int(side), int(side)) for side in module.padding]


def blank(model: nn.Module, input_shape: Sequence[int]) -> Float[Tensor, "1 ..."]:
    """A black image for `model`, of its dtype and on its device.

    Raises:
        ConfigError: `input_shape` is not that of one image.
    """
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
    if not (shape and all(isinstance(side, int) and side > 0 for side in shape)):
        raise ConfigError(f"input_shape: found {input_shape!r}, expected that of one image, e.g. (3, 32, 32)")
    kind = next(model.parameters(), torch.zeros(())).dtype
    return torch.zeros((1, *shape), dtype=kind, device=device_of(model))


def _projection(module: nn.MultiheadAttention, part: str) -> Tensor:
    """The matrix of one part of an attention layer."""
    if part == "out_proj":
        return module.out_proj.weight
    if module.in_proj_weight is not None:
        return module.in_proj_weight.chunk(3)[PROJECTIONS.index(part)]
    return module.get_parameter(f"{part}_proj_weight")


def _short(sides: Sequence[int]) -> str:
    """One number where all are equal."""
    return str(sides[0]) if len(set(sides)) == 1 else "x".join(map(str, sides))
