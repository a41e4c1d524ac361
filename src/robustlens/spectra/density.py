"""The density of singular values of a convolution that is too large for its matrix, by Lanczos quadrature.

Of A^T A (or A A^T, whichever is smaller, N x N) a run of Lanczos from a vector z of random signs gives nodes
and weights whose sum of weights * f(nodes) is z^T f(A^T A) z / N: exactly for polynomials of degree below
twice its steps, and without bias the mean of f over all eigenvalues (Ubaru, Chen and Saad 2017). The mean of
s^2 needs no chance: it is the squared Frobenius norm over N, which the weights and borders give.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg import eigh_tridiagonal
from scipy.special import xlogy

from robustlens import noise
from robustlens.errors import ConfigError, NumericsError
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.extreme import Map, largest_values, smallest_values
from robustlens.stats.intervals import student_half_width

DRAWS, STEPS = 4, 64
"""Random vectors, and Lanczos steps of each."""

SHARES = (np.arange(1000) + 0.5) / 1000
"""Shares of all singular values at which the quantiles of a density are kept."""

_FEWEST_STEPS = 8
_EPS = float(np.finfo(np.float64).eps)

Numbers = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Density:
    """The singular values s of a layer, as a density with its error.

    Attributes:
        nodes: (draws, steps) singular values at which the density sits. weights: (draws, steps), which sum to
            1 in each draw; a place that an early end of Lanczos leaves has weight 0.
        coarse: as `nodes` and `weights`, of three quarters of the steps: what the others add says how well
            the steps resolve the density.
        count: number of singular values. square: mean of s^2, exact.
        largest: exact. smallest: exact, or None where its factor would be larger than the memory allowed.
    """

    nodes: Float64[np.ndarray, "draws steps"]
    weights: Float64[np.ndarray, "draws steps"]
    coarse: tuple[np.ndarray, np.ndarray]
    count: int
    square: float
    largest: float
    smallest: float | None

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Mean of `function` over all singular values, and the half width of its 95 % interval.

        The half width is Student's over the draws, and by how much the last quarter of the steps moved it.
        """
        draws = (self.weights * function(self.nodes)).sum(1)
        nodes, weights = self.coarse
        moved = abs(float(draws.mean() - (weights * function(nodes)).sum(1).mean()))
        return float(draws.mean()), student_half_width(draws) + moved

    def summary(self) -> dict[str, Any]:
        """As `summarize`, None where that needs every value; with the method and the errors."""
        mean, error = self.mean(lambda s: s)
        mean = min(mean, math.sqrt(self.square))  # Jensen: the exact mean square bounds it
        std = math.sqrt(max(self.square - mean**2, 0.0))
        entropy, entropy_error = self._entropy()
        numbers: Numbers = {
            "std": std,
            "mean": mean,
            "std_over_mean": std / mean if mean else 0.0,
            "max": self.largest,
            "min": self.smallest,
            "count": self.count,
            "stable_rank": self.count * self.square / self.largest**2 if self.largest else 0.0,
            "condition": self.largest / self.smallest if self.smallest else None,
            "entropy": entropy,
            "effective_rank": math.exp(entropy) if self.largest else 0.0,
        }
        spread = std or math.inf
        errors: Numbers = {
            "mean": error,
            "std": _std_error(self.square, mean, error),
            "std_over_mean": self.square / (mean**2 * spread) * error if mean else 0.0,
            "entropy": entropy_error,
            "effective_rank": math.exp(entropy) * math.expm1(min(entropy_error, 1.0)),
        }
        seen = float(self.nodes[self.weights > 0].min())
        return {
            **numbers,
            "method": f"density, {self.nodes.shape[0]} draws of {self.nodes.shape[1]} Lanczos steps",
            "error": errors,
            "min_at_most": min(seen, self.largest),
        }

    def quantiles(self) -> Float64[np.ndarray, " shares"]:
        """Singular values above which the shares `SHARES` of all lie, descending."""
        held = self.weights > 0
        order = np.argsort(-self.nodes[held])
        nodes, weights = self.nodes[held][order], self.weights[held][order]
        middle = (np.cumsum(weights) - weights / 2) / weights.sum()
        return np.interp(SHARES, middle, nodes).clip(self.smallest, self.largest)

    def _entropy(self) -> tuple[float, float]:
        """Entropy of s / sum s over the values, in nats, and its error."""
        mean, error = self.mean(lambda s: s)
        if not mean:
            return 0.0, 0.0
        product, product_error = self.mean(lambda s: xlogy(s, s))
        value = math.log(self.count * mean) - product / mean
        return value, error / mean + product_error / mean + abs(product) * error / mean**2


def density_of(
    convolution: Convolution, *, draws: int = DRAWS, steps: int = STEPS, max_bytes: int, seed: int = 0
) -> Density:
    """The density of a convolution's singular values; its largest one, and its smallest where memory allows.

    Args:
        convolution: with zeros or the opposite side's pixels at its borders.
        draws: random vectors.
        steps: of Lanczos, fewer where `max_bytes` holds fewer vectors.
        max_bytes: of the Lanczos vectors, and of the triangular factor for the smallest value.
        seed: of the draws.

    Raises:
        ConfigError: fewer than 2 draws; `max_bytes` holds fewer than 8 vectors.
        NumericsError: a product is not finite, or an iteration for an extreme value has not converged.
    """
    rows, columns = convolution.shape
    count = min(rows, columns)
    steps = min(steps, count, max_bytes // (8 * count))
    if draws < 2 or steps < min(_FEWEST_STEPS, count):
        raise ConfigError(
            f"spectrum: found {draws} draws and memory for {steps} Lanczos vectors of {count} values, "
            f"expected at least 2 and {min(_FEWEST_STEPS, count)}; raise max_bytes"
        )
    generator = noise.generator_for(seed)
    fine, coarse = [], []
    for _ in range(draws):
        diagonal, off_diagonal = _tridiagonal(convolution, generator, steps)
        fine.append(_quadrature(diagonal, off_diagonal, steps))
        part = max(1, 3 * len(diagonal) // 4) if len(diagonal) == steps < count else len(diagonal)
        coarse.append(_quadrature(diagonal[:part], off_diagonal, steps))
    (nodes, weights), less = ([np.stack(part) for part in zip(*each, strict=True)] for each in (fine, coarse))
    return Density(
        nodes=nodes,
        weights=weights,
        coarse=(less[0], less[1]),
        count=count,
        square=convolution.squared_norm() / count,
        largest=float(largest_values(convolution)[0]),
        smallest=_smallest(convolution, max_bytes),
    )


def _std_error(square: float, mean: float, error: float) -> float:
    """Half width of the standard deviation's interval: the larger way that the mean's interval moves it."""
    spread = [math.sqrt(max(square - (mean + way * error) ** 2, 0.0)) for way in (-1, 0, 1)]
    return max(abs(spread[0] - spread[1]), abs(spread[2] - spread[1]))


def _smallest(convolution: Convolution, max_bytes: int) -> float | None:
    """The smallest singular value; None where its triangular factor is too large."""
    try:
        return float(smallest_values(convolution, max_bytes=max_bytes)[-1])
    except ConfigError:
        return None


def _tridiagonal(
    convolution: Convolution, generator: torch.Generator, steps: int
) -> tuple[list[float], list[float]]:
    """Diagonal and off-diagonal of Lanczos from random signs, with full reorthogonalisation."""
    rows, columns = convolution.shape
    channels, size = convolution.weight.shape[1] * convolution.groups, convolution.size
    wide = rows < columns
    shape = (convolution.weight.shape[0], *convolution.out_size) if wide else (channels, *size)
    maps: tuple[Map, Map] = (convolution.apply, convolution.adjoint)
    first, second = reversed(maps) if wide else maps
    count = math.prod(shape)
    basis = torch.zeros(steps, count, dtype=torch.float64)
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    basis[0] = signs.double() / math.sqrt(count)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(steps):
        product = second(first(basis[step].view(1, *shape))).flatten()
        diagonal.append(float(basis[step] @ product))
        if not math.isfinite(diagonal[-1]):
            raise NumericsError("spectrum: a product with the layer is NaN or infinite; check its weights")
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        length = float(product.norm())
        if step + 1 == steps or length <= 10 * _EPS * max(map(abs, diagonal + off_diagonal)):
            break
        off_diagonal.append(length)
        basis[step + 1] = product / length
    return diagonal, off_diagonal


def _quadrature(
    diagonal: list[float], off_diagonal: list[float], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (singular values) and weights of a tridiagonal matrix, filled up with weights of 0 to `steps`."""
    squares, vectors = eigh_tridiagonal(diagonal, off_diagonal[: len(diagonal) - 1])
    nodes, weights = np.zeros(steps), np.zeros(steps)
    nodes[: len(squares)] = np.sqrt(squares.clip(min=0))
    weights[: len(squares)] = np.square(vectors[0])
    return nodes, weights
