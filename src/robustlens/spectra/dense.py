"""Singular values by the matrix itself, for small maps."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.models.hooks import Convolutional, Transposed
from robustlens.spectra.convolution import MAX_BYTES, Convolution
from robustlens.spectra.layers import Layer, Pair, Size
from robustlens.spectra.workers import decomposition, descending, workers


def dense_operator(
    layer: Convolutional, size: Size, padding: str = "circular", *, max_bytes: int = MAX_BYTES
) -> Float64[Tensor, "rows columns"]:
    """The matrix of a convolution on a map, found by applying it to every basis image.

    Rows are outputs (c_out, h', w') and columns inputs (c_in, h, w), both flattened; the bias is left out.

    Args:
        layer: the convolution, of one, two or three sides, or a transposed one.
        size: sides of its input.
        padding: "zero" is the layer as it is. "circular" wraps around, whatever the layer's padding, and has
            one output for every `stride` inputs, rounded up (`stride` outputs for every input, transposed).
        max_bytes: refuse to build a larger matrix.

    Raises:
        ConfigError: unknown padding; the matrix is larger than `max_bytes`; "zero", where the layer pads
            otherwise.
    """
    placed = Layer(layer, size)
    convolution = Convolution.of(placed, padding)
    _check_size(f"of {placed}", convolution.shape, max_bytes)
    matrix = convolution.matrix()
    return matrix.T if isinstance(layer, Transposed) else matrix


def dense_singular_values(
    layer: Layer,
    operator: str,
    *,
    dtype: torch.dtype = torch.float64,
    method: str = "svd",
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """All singular values of a layer, group by group, descending, float64.

    Raises:
        ConfigError: as `dense_operator`; `max_bytes` counts the matrix of one group, and does not bind a
            linear layer, whose matrix is there already. Unknown method.
    """
    values_of = decomposition(method)
    if layer.is_scale:
        return descending(layer.weight.abs().to(dtype))
    if not layer.is_convolution:
        matrices = iter([layer.weight])
    else:
        parts = list(Convolution.of(layer, operator).parts())
        why = "" if operator == "zero" else ", whose stride does not divide its feature map,"
        _check_size(f"of {layer}{why}", parts[0].shape, max_bytes)
        matrices = (part.matrix() for part in parts)
    with workers() as pool:
        # One group at a time: only one matrix is in memory.
        values = [pool.submit(values_of, matrix.to(dtype)).result() for matrix in matrices]
    return descending(torch.cat(values))


def _check_size(what: str, shape: Pair, max_bytes: int) -> None:
    rows, columns = shape
    if rows * columns * 8 > max_bytes:
        raise ConfigError(
            f"spectrum: the dense matrix {what} is {rows} x {columns}, {rows * columns * 8} bytes, expected "
            f"at most max_bytes = {max_bytes}; raise it, or take the `extremes` of operator 'zero'"
        )
