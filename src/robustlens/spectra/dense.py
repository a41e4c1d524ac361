"""Singular values by the matrix itself, for small maps."""

import math

import numpy as np
import torch

from robustlens.errors import ConfigError
from robustlens.spectra.convolution import MAX_BYTES, Convolution
from robustlens.spectra.layers import Layer
from robustlens.spectra.workers import decomposition, descending, workers


def fits(part: Convolution, max_bytes: int) -> bool:
    """Whether the dense matrix of one group of a convolution has at most so many bytes."""
    return math.prod(part.shape) * 8 <= max_bytes


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
        ConfigError: unknown operator or method; "zero", where the layer pads otherwise; a matrix larger than
            `max_bytes`, which counts that of one group, and does not bind a linear layer, whose matrix is
            there already.
    """
    values_of = decomposition(method)
    if layer.is_scale:
        return descending(layer.weight.abs().to(dtype))
    if not layer.is_convolution:
        matrices = iter([layer.weight])
    else:
        parts = list(Convolution.of(layer, operator).parts())
        rows, columns = parts[0].shape
        if not fits(parts[0], max_bytes):
            why = "" if operator == "zero" else ", whose stride does not divide its feature map,"
            raise ConfigError(
                f"spectrum: the dense matrix of {layer}{why} is {rows} x {columns}, {rows * columns * 8} "
                f"bytes, expected at most max_bytes = {max_bytes}; raise it, or take the `extremes` or "
                f"the `density` of operator {operator!r}"
            )
        matrices = (part.matrix() for part in parts)
    with workers() as pool:
        # One group at a time: only one matrix is in memory.
        values = [pool.submit(values_of, matrix.to(dtype)).result() for matrix in matrices]
    return descending(torch.cat(values))
