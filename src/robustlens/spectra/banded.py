"""The triangular factor of a convolution's matrix, computed along its band of blocks where it has one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.spectra.convolution import Convolution

BlockRow = dict[int, Tensor]
"""The blocks of one row of blocks that are not zero, by column."""


@dataclass(frozen=True, eq=False)
class Triangle:
    """An upper triangular matrix that is a band of blocks.

    Attributes:
        rows: for each row of blocks (width, m width): the diagonal block and those right of it.
        width: of a block.
    """

    rows: Sequence[Float64[Tensor, "width _"]]
    width: int

    def lift(self, least: float) -> None:
        """Move diagonal entries away from zero: a singular R then has an inverse, `least` away from it."""
        for row in self.rows:
            diagonal = row.diagonal()
            diagonal[diagonal.abs() < least] = least

    def solve(self, b: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """R^-1 b."""
        x = b.clone()
        for place, row in reversed(list(enumerate(self.rows))):
            own, beyond = self._slices(place, row)
            x[own] = _solve(row[:, : self.width], x[own] - row[:, self.width :] @ x[beyond])
        return x

    def solve_transposed(self, b: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """R^-T b."""
        x = b.clone()
        for place, row in enumerate(self.rows):
            own, beyond = self._slices(place, row)
            x[own] = _solve(row[:, : self.width].T, x[own], upper=False)
            x[beyond] -= row[:, self.width :].T @ x[own]
        return x

    def _slices(self, place: int, row: Tensor) -> tuple[slice, slice]:
        """Places in a vector of the diagonal block, and of the others of its row of blocks."""
        begin = place * self.width
        return slice(begin, begin + self.width), slice(begin + self.width, begin + row.shape[1])


def factorised(convolution: Convolution, *, max_bytes: int) -> Triangle:
    """R with R^T R = A^T A, or A A^T where A has fewer rows than columns.

    With wrapped borders A is no band: R is one block then, from the dense A.

    Args:
        convolution: A, in one group.
        max_bytes: of R, and of A where it is dense.

    Raises:
        ConfigError: what is built is larger than `max_bytes`.
    """
    rows, columns = convolution.shape
    wide = rows < columns
    if convolution.wraps:
        _check_bytes(f"a {rows} x {columns} matrix", 8 * rows * columns, max_bytes)
        matrix = convolution.matrix()
        return Triangle([torch.linalg.qr(matrix.T if wide else matrix, mode="r").R], min(rows, columns))
    height = convolution.out_size[0] if wide else convolution.size[0]
    width = min(rows, columns) // height
    reach = convolution.dilation[0] * (convolution.weight.shape[2] - 1)
    span = 1 + (reach // convolution.stride[0] if wide else reach)
    needed = 8 * height * min(span, height) * width**2
    _check_bytes(f"the triangular factor of a {rows} x {columns} matrix", needed, max_bytes)
    band = _band(convolution)
    return _triangle(_transposed(band) if wide else band, height, width)


def _check_bytes(what: str, needed: int, max_bytes: int) -> None:
    if needed > max_bytes:
        raise ConfigError(
            f"spectrum: {what} has {needed} bytes, expected at most max_bytes = {max_bytes}; raise it, or "
            "take `spectral_norms`"
        )


def _band(convolution: Convolution) -> list[BlockRow]:
    """The matrix: a row of blocks for each row of the output, a column for each row of the input.

    A row is a slice along the first side of the map.
    """
    (top, _), *sides = convolution.borders
    lines = [
        replace(
            convolution,
            weight=line,
            size=(1, *convolution.size[1:]),
            borders=((0, 0), *sides),
            stride=(1, *convolution.stride[1:]),
        ).matrix()
        for line in convolution.weight.split(1, dim=2)
    ]
    stride, dilation = convolution.stride[0], convolution.dilation[0]
    read = [
        {out * stride - top + tap * dilation: line for tap, line in enumerate(lines)}
        for out in range(convolution.out_size[0])
    ]
    return [{row: line for row, line in blocks.items() if 0 <= row < convolution.size[0]} for blocks in read]


def _transposed(band: list[BlockRow]) -> list[BlockRow]:
    flipped: dict[int, BlockRow] = {}
    for row, blocks in enumerate(band):
        for column, block in blocks.items():
            flipped.setdefault(column, {})[row] = block.T
    return list(flipped.values())


def _triangle(band: list[BlockRow], height: int, width: int) -> Triangle:
    """QR column by column of blocks: what later rows do not touch is finished and leaves the window."""
    rest = torch.empty(0, 0, dtype=torch.float64)
    rows = []
    for column in range(height):
        # Earlier rows are in `rest` already: a row enters with its first column.
        entering = [blocks for blocks in band if blocks and min(blocks) == column]
        reach = max([width, rest.shape[1], *((max(blocks) + 1 - column) * width for blocks in entering)])
        padded = torch.nn.functional.pad(rest, (0, reach - rest.shape[1]))
        window = [padded, *(_laid(blocks, column, reach) for blocks in entering)]
        stacked = torch.cat(window)
        if len(stacked) < width:  # these columns are linearly dependent
            stacked = torch.cat([stacked, stacked.new_zeros(width - len(stacked), reach)])
        triangle = torch.linalg.qr(stacked, mode="r").R
        rows.append(triangle[:width].clone())
        rest = triangle[width:, width:]
    return Triangle(rows, width)


def _laid(blocks: BlockRow, column: int, reach: int) -> Float64[Tensor, "height reach"]:
    """A row of blocks, from `column` on, with zeros between and behind them."""
    height, width = next(iter(blocks.values())).shape
    laid = torch.zeros(height, reach, dtype=torch.float64)
    for place, block in blocks.items():
        laid[:, (place - column) * width : (place - column + 1) * width] = block
    return laid


def _solve(
    triangle: Float64[Tensor, "n n"], b: Float64[Tensor, " n"], *, upper: bool = True
) -> Float64[Tensor, " n"]:
    return torch.linalg.solve_triangular(triangle, b[:, None], upper=upper)[:, 0]
