"""A convolution as a matrix: how it maps images, its transpose, and the matrix itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from robustlens.errors import ConfigError
from robustlens.spectra.layers import Layer, Pair, pair

OperatorName = Literal["circular", "zero"]
OPERATORS = {"circular": "wrap-around", "zero": "zero-padded"}
"""The matrices that a convolution may stand for, and what its borders then are."""
MAX_BYTES = 2**27
"""Largest dense matrix that is built unasked: about a minute for its singular values."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution on an (h, w) map, bias aside.

    Attributes:
        weight: (c_out, c_in / groups, kh, kw). size: (h, w) of the input.
        borders: pixels added above and below, and left and right; fewer than none are cut off.
        wraps: whether these are the pixels of the opposite side, and not zeros.
    """

    weight: Float64[Tensor, "outputs inputs kh kw"]
    size: Pair
    borders: tuple[Pair, Pair]
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    wraps: bool = False

    @classmethod
    def of(cls, layer: Layer, operator: str) -> "Convolution":
        """A Conv2d layer, whatever its padding with "circular", as it is with "zero".

        Raises:
            ConfigError: unknown operator; "zero", where the layer pads otherwise.
        """
        check_operator(operator)
        module, size = layer.module, layer.size
        assert isinstance(module, nn.Conv2d)
        assert size is not None
        if operator == "zero" and module.padding_mode != "zeros":
            mode = repr(module.padding_mode)
            raise ConfigError(
                f"spectrum.operator: 'zero' needs padding_mode 'zeros', found {mode} in {layer}"
            )
        stride, dilation = pair(module.stride), pair(module.dilation)
        wraps = operator == "circular"
        sides = zip(size, module.kernel_size, stride, dilation, strict=True)
        vertical, horizontal = [_wrapped(*side) for side in sides] if wraps else _padding(module)
        return cls(layer.weight, size, (vertical, horizontal), stride, dilation, module.groups, wraps)

    @property
    def padded(self) -> Pair:
        """Size of the map with its borders."""
        (top, bottom), (left, right) = self.borders
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def out_size(self) -> Pair:
        """Size of the output map."""
        sides = zip(self.padded, self.weight.shape[2:], self.stride, self.dilation, strict=True)
        out = [(side - dilation * (kernel - 1) - 1) // stride + 1 for side, kernel, stride, dilation in sides]
        return out[0], out[1]

    @property
    def shape(self) -> Pair:
        """Rows and columns of the matrix: values of an output and of an input."""
        outputs, inputs = self.weight.shape[:2]
        return outputs * math.prod(self.out_size), inputs * self.groups * math.prod(self.size)

    def apply(self, images: Float64[Tensor, "n inputs h w"]) -> Float64[Tensor, "n outputs out_h out_w"]:
        """The layer's output without its bias."""
        (top, bottom), (left, right) = self.borders
        if self.wraps:
            rows = torch.arange(-top, self.size[0] + bottom) % self.size[0]
            columns = torch.arange(-left, self.size[1] + right) % self.size[1]
            images = images[:, :, rows][:, :, :, columns]
        else:
            images = F.pad(images, (left, right, top, bottom))
        return F.conv2d(images, self.weight, None, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, outputs: Float64[Tensor, "n outputs out_h out_w"]) -> Float64[Tensor, "n inputs h w"]:
        """The transposed map, of a convolution that does not wrap."""
        (top, _), (left, _) = self.borders
        shape = (len(outputs), self.weight.shape[1] * self.groups, *self.padded)
        padded = conv2d_input(shape, self.weight, outputs, self.stride, 0, self.dilation, self.groups)
        return padded[:, :, top : top + self.size[0], left : left + self.size[1]]

    def parts(self) -> Iterator["Convolution"]:
        """One convolution for each group: the blocks of a block-diagonal matrix."""
        for weight in self.weight.chunk(self.groups):
            yield replace(self, weight=weight, groups=1)

    def matrix(self) -> Float64[Tensor, "rows columns"]:
        """Rows are outputs (c_out, h', w') and columns inputs (c_in, h, w), both flattened."""
        rows, columns = self.shape
        matrix = torch.empty(rows, columns, dtype=torch.float64)
        for some in torch.arange(columns).split(max(1, 2**22 // max(rows, columns))):
            basis = F.one_hot(some, columns).double().view(len(some), -1, *self.size)
            matrix[:, some] = self.apply(basis).flatten(1).T
        return matrix


def check_operator(operator: str) -> None:
    """Refuse an unknown operator."""
    if operator not in OPERATORS:
        raise ConfigError(f"spectrum.operator: found {operator!r}, expected 'circular' or 'zero'")


def _wrapped(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Borders of one side, centred as "same" padding centres them, for ceil(size / stride) outputs."""
    reach = dilation * (kernel - 1)
    read = (math.ceil(size / stride) - 1) * stride + reach + 1
    return reach // 2, read - size - reach // 2


def _padding(module: nn.Conv2d) -> list[Pair]:
    """Borders of a layer that pads with zeros."""
    if module.padding == "valid":
        return [(0, 0), (0, 0)]
    if module.padding == "same":
        reaches = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return [(reach // 2, reach - reach // 2) for reach in reaches]
    return [(int(side), int(side)) for side in module.padding]
