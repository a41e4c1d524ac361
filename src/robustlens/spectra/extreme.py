"""The largest and the smallest singular values of a convolution, where its matrix is no product of blocks.

The largest come from Lanczos steps (ARPACK) with A^T A, which a convolution and its transpose apply.

The smallest need the inverse. Image row by image row, A is a band of blocks: row i of the output reads kh
rows of the input. So A = QR can be computed along the band by orthogonal steps on a few rows at a time, Q
forgotten as it goes, and R is a band too. Lanczos steps with (R^T R)^-1, two triangular solves each, then
converge fast to 1 / s^2. As with a dense SVD, rounding moves a singular value by some eps s_max, so that
small ones are right where iterations on A^T A alone (cond(A)^2) or an incomplete preconditioner would stall.
With wrapped borders A has no band, and R comes from the dense A, which is less work than all of its values.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from robustlens import noise
from robustlens.errors import NumericsError
from robustlens.spectra.banded import factorised
from robustlens.spectra.convolution import Convolution

FACTOR_BYTES = 2**32
"""Largest triangular factor that is built unasked: that of 64 channels, 3x3 on 32x32, has 3.2 GB."""
_SMALL = 2**20
"""Up to so many elements a dense SVD is faster."""
_BASIS = 40  # Lanczos vectors between two restarts
_TOLERANCE = 1e-12  # of Lanczos: residual of an eigenvalue s^2, as a share of it
_EPS = float(np.finfo(np.float64).eps)

Map = Callable[[Tensor], Tensor]


def largest_values(convolution: Convolution, count: int = 1) -> np.ndarray:
    """The `count` largest singular values (fewer where there are fewer), descending, float64.

    Raises:
        NumericsError: Lanczos has not converged.
    """
    return _merged([_largest(part, count) for part in convolution.parts()])[:count]


def smallest_values(convolution: Convolution, count: int = 1, *, max_bytes: int = FACTOR_BYTES) -> np.ndarray:
    """The `count` smallest singular values (fewer where there are fewer), descending, float64.

    Cost for c channels in and out on (h, w), stride 1: some 20 h (c w)^3 operations, 8 kh h (c w)^2 bytes.

    Args:
        convolution: with zeros or the opposite side's pixels at its borders.
        count: of values.
        max_bytes: of the triangular factor, and of the dense matrix that it comes from with wrapped borders.

    Raises:
        ConfigError: one of these is larger than `max_bytes`.
        NumericsError: Lanczos has not converged, or the convolution maps the vectors found to other lengths.
    """
    return _merged([_smallest(part, count, max_bytes) for part in convolution.parts()])[-count:]


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(parts))[::-1]


def _largest(convolution: Convolution, count: int) -> np.ndarray:
    if _is_small(convolution, count):
        return torch.linalg.svdvals(convolution.matrix()).numpy()[:count]
    forward, back, shape = _thin(convolution)
    squares, _ = _lanczos(lambda x: back(forward(x.view(1, *shape))).flatten(), math.prod(shape), count)
    return np.sqrt(squares)


def _smallest(convolution: Convolution, count: int, max_bytes: int) -> np.ndarray:
    if _is_small(convolution, count):
        return torch.linalg.svdvals(convolution.matrix()).numpy()[-count:]
    forward, _, shape = _thin(convolution)
    triangle = factorised(convolution, max_bytes=max_bytes)
    top = _largest(convolution, 1)[0]
    if not top:
        return np.zeros(count)
    triangle.lift(_EPS * top)
    squares, vectors = _lanczos(
        lambda x: triangle.solve(triangle.solve_transposed(x)), math.prod(shape), count
    )
    values = 1 / np.sqrt(squares[::-1])
    # The triangle's vectors run along its rows of blocks first, channels second.
    channels, height, *rest = shape
    bands = len(triangle.rows)
    maps = vectors.T.flip(0).reshape(count, bands, channels, height // bands, *rest).transpose(1, 2)
    lengths = forward(maps.reshape(count, *shape)).flatten(1).norm(dim=1).numpy()
    if not np.allclose(lengths, values, rtol=1e-6, atol=1e-10 * top):
        raise NumericsError(
            f"spectrum: found smallest singular values {values} in the triangular factor, but {lengths} in "
            "the layer, expected the same; take the dense matrix"
        )
    return values


def _is_small(convolution: Convolution, count: int) -> bool:
    """Whether a dense SVD is faster, or Lanczos would have to find half of all values."""
    return math.prod(convolution.shape) <= _SMALL or min(convolution.shape) <= 2 * count


def _thin(convolution: Convolution) -> tuple[Map, Map, tuple[int, ...]]:
    """The map whose matrix has no more columns than rows (A or A^T), its transpose, and its input's shape."""
    rows, columns = convolution.shape
    if columns <= rows:
        return convolution.apply, convolution.adjoint, (convolution.weight.shape[1], *convolution.size)
    return convolution.adjoint, convolution.apply, (convolution.weight.shape[0], *convolution.out_size)


def _lanczos(operator: Map, size: int, count: int) -> tuple[np.ndarray, Float64[Tensor, "size count"]]:
    """The largest eigenvalues of a positive symmetric map, descending, and their vectors.

    Raises:
        NumericsError: they have not converged, or a product is beyond float64.
    """

    def multiply(x: np.ndarray) -> np.ndarray:
        return operator(torch.from_numpy(np.ascontiguousarray(x).ravel())).numpy()

    start = torch.randn(size, generator=noise.generator_for(0), dtype=torch.float64).numpy()
    if not multiply(start).any():  # a map to zero alone, which ARPACK refuses
        return np.zeros(count), torch.zeros(size, count, dtype=torch.float64)
    basis = min(size, max(_BASIS, 2 * count + 1))
    linear = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    try:
        values, vectors = eigsh(linear, count, which="LA", v0=start, ncv=basis, tol=_TOLERANCE)
    except ArpackNoConvergence as error:
        raise NumericsError(
            f"spectrum: Lanczos found {len(error.eigenvalues)} of {count} extreme singular values, expected "
            "all; ask for fewer"
        ) from error
    except ArpackError as error:
        raise NumericsError(
            "spectrum: found products with the layer that are beyond float64, expected a scale at which "
            "Lanczos can start; check the weights"
        ) from error
    return values[::-1], torch.from_numpy(vectors).flip(1)
