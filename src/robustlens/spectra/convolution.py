"""A convolution as a matrix: how it maps images, its transpose, and the matrix itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float64
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from robustlens.errors import ConfigError
from robustlens.models.hooks import Convolutional, Transposed
from robustlens.spectra.layers import Layer, Pair, Size, padding_of

OperatorName = Literal["circular", "zero"]
OPERATORS = {"circular": "wrap-around", "zero": "zero-padded"}
"""The matrices on its feature map that a convolution may stand for, and what its borders then are."""
KERNEL = "kernel"
"""The weight itself as a matrix, whatever the feature map."""
MAX_BYTES = 2**27
"""Largest dense matrix that is built unasked: about a minute for its singular values."""
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution on a map of one, two or three sides, bias aside.

    Attributes:
        weight: (c_out, c_in / groups, *kernel). size: sides of the input.
        borders: pixels added at either end of each side (above and below, left and right); fewer than none
            are cut off.
        stride, dilation: of each side.
        wraps: whether the borders are the pixels of the opposite side, and not zeros.
    """

    weight: Float64[Tensor, "outputs inputs *kernel"]
    size: Size
    borders: tuple[Pair, ...]
    stride: Size
    dilation: Size
    groups: int = 1
    wraps: bool = False

    @classmethod
    def of(cls, layer: Layer, operator: str) -> "Convolution":
        """A convolution, whatever its padding with "circular", as it is with "zero".

        Of a transposed convolution, the convolution whose transpose it is: the singular values are the same.
        It reads the map that the layer gives; with "circular" that has `stride` pixels for each one read.

        Raises:
            ConfigError: unknown operator; "zero", where the layer pads otherwise.
        """
        check_operator(operator)
        module, size = layer.module, layer.size
        assert isinstance(module, Convolutional)
        assert size is not None
        if operator == "zero" and module.padding_mode != "zeros":
            mode = repr(module.padding_mode)
            raise ConfigError(
                f"spectrum.operator: 'zero' needs padding_mode 'zeros', found {mode} in {layer}"
            )
        wraps, borders = operator == "circular", padding_of(module)
        kernel, stride, dilation = map(tuple, (module.kernel_size, module.stride, module.dilation))
        if isinstance(module, Transposed) and wraps:
            size = tuple(side * step for side, step in zip(size, stride, strict=True))
        elif isinstance(module, Transposed):
            read, size = _read(module, size), layer.written or _default_size(module, size)
            borders = [(b, r - b - s) for (b, _), r, s in zip(borders, read, size, strict=True)]
        if wraps:
            borders = [_wrapped(*side) for side in zip(size, kernel, stride, dilation, strict=True)]
        return cls(layer.weight, size, tuple(borders), stride, dilation, module.groups, wraps)

    @property
    def padded(self) -> Size:
        """Sides of the map with its borders."""
        return tuple(side + sum(borders) for side, borders in zip(self.size, self.borders, strict=True))

    @property
    def out_size(self) -> Size:
        """Sides of the output map."""
        sides = zip(self.padded, self.weight.shape[2:], self.stride, self.dilation, strict=True)
        return tuple(
            (side - dilation * (kernel - 1) - 1) // stride + 1 for side, kernel, stride, dilation in sides
        )

    @property
    def shape(self) -> Pair:
        """Rows and columns of the matrix: values of an output and of an input."""
        outputs, inputs = self.weight.shape[:2]
        return outputs * math.prod(self.out_size), inputs * self.groups * math.prod(self.size)

    @property
    def is_block_diagonal(self) -> bool:
        """Whether the DFT makes its matrix block diagonal, so that all values are cheap on any map."""
        return self.wraps and not any(side % step for side, step in zip(self.size, self.stride, strict=True))

    def apply(self, images: Float64[Tensor, "n inputs *size"]) -> Float64[Tensor, "n outputs *out"]:
        """The layer's output without its bias."""
        if self.wraps:
            for axis, read in enumerate(self._wrapped_places(), 2):
                images = images.index_select(axis, read)
        else:
            images = F.pad(images, [pixels for borders in reversed(self.borders) for pixels in borders])
        convolve = _CONVOLVE[len(self.size)]
        return convolve(images, self.weight, None, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, outputs: Float64[Tensor, "n outputs *out"]) -> Float64[Tensor, "n inputs *size"]:
        """The transposed map."""
        shape = (len(outputs), self.weight.shape[1] * self.groups, *self.padded)
        transposed = _TRANSPOSED[len(self.size)]
        padded = transposed(shape, self.weight, outputs, self.stride, 0, self.dilation, self.groups)
        if self.wraps:
            for axis, read in enumerate(self._wrapped_places(), 2):
                padded = _summed(padded, axis, read, self.size[axis - 2])
            return padded
        return F.pad(padded, [-pixels for borders in reversed(self.borders) for pixels in borders])

    def squared_norm(self) -> float:
        """The squared Frobenius norm of the matrix: the sum of its squared singular values."""
        if self.wraps:  # every output reads the same kernel; taps that meet on a small map are one
            kernel = self.weight
            for axis, (side, dilation) in enumerate(zip(self.size, self.dilation, strict=True), 2):
                taps = torch.arange(kernel.shape[axis]) * dilation % side
                met, place = taps.unique(return_inverse=True)
                kernel = _summed(kernel, axis, place, len(met))
            return float(kernel.square().sum()) * math.prod(self.out_size)
        squared = replace(self, weight=self.weight.square())
        ones = torch.ones(1, self.weight.shape[1] * self.groups, *self.size).double()
        return float(squared.apply(ones).sum())

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

    def _wrapped_places(self) -> list[Tensor]:
        """For each side the pixel that stands at each place of the map with its wrapped borders."""
        sides = zip(self.size, self.borders, strict=True)
        return [torch.arange(-before, side + after) % side for side, (before, after) in sides]


def check_operator(operator: str) -> None:
    """Refuse an unknown operator."""
    if operator not in OPERATORS:
        raise ConfigError(f"spectrum.operator: found {operator!r}, expected 'circular' or 'zero'")


def _summed(values: Tensor, axis: int, places: Tensor, size: int) -> Tensor:
    """Slices along `axis`, added up at their `places` of `size`."""
    shape = (*values.shape[:axis], size, *values.shape[axis + 1 :])
    return values.new_zeros(shape).index_add_(axis, places, values)


def _wrapped(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Borders of one side, centred as "same" padding centres them, for ceil(size / stride) outputs."""
    reach = dilation * (kernel - 1)
    read = (math.ceil(size / stride) - 1) * stride + reach + 1
    return reach // 2, read - size - reach // 2


def _read(module: Convolutional, outputs: Size) -> Size:
    """Sides of the map, borders included, that a convolution with these settings reads for its outputs."""
    sides = zip(outputs, module.kernel_size, module.stride, module.dilation, strict=True)
    return tuple(
        (side - 1) * stride + dilation * (kernel - 1) + 1 for side, kernel, stride, dilation in sides
    )


def _default_size(module: Transposed, size: Size) -> Size:
    """Sides of the map that a transposed convolution gives where no other size is asked of it."""
    sides = zip(_read(module, size), padding_of(module), module.output_padding, strict=True)
    return tuple(side - sum(borders) + int(beyond) for side, borders, beyond in sides)
