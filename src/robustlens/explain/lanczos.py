"""Eigenvalues, trace and density of any symmetric operator, from its products with vectors alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from robustlens.errors import ConfigError, NumericsError


@runtime_checkable
class Operator(Protocol):
    """A symmetric matrix, known by its products with vectors."""

    size: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The matrix times `vector`."""


@dataclass(frozen=True)
class Ritz:
    """Ritz values of a matrix from one start vector, the largest first.

    Attributes:
        values: (m,) Ritz values. weights: (m,) squared first components of their vectors, which sum to 1: a
            Gauss quadrature of the matrix's spectrum as the start vector sees it. residuals: (m,), each
            value is this near to an eigenvalue. top: (p,), the Ritz vector of the largest value, of length 1.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    top: Float[Tensor, " p"]


def lanczos(operator: Operator, start: Float[Tensor, " p"], steps: int) -> Ritz:
    """Lanczos with full reorthogonalisation, twice in each step (Golub and Van Loan 2013, section 10.3).

    It ends before `steps` where the start vector's Krylov space is exhausted; the values are then exact.

    Raises:
        ConfigError: fewer than one step. NumericsError: a product is not finite.
    """
    if steps < 1:
        raise ConfigError(f"curvature.lanczos_steps: found {steps}, expected at least 1")
    count = min(steps, operator.size)
    basis = torch.zeros(count, operator.size, dtype=operator.dtype, device=operator.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(count):
        product = operator.matvec(basis[step])
        diagonal.append(float(basis[step] @ product))
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        off_diagonal.append(float(product.norm()))
        if not math.isfinite(off_diagonal[-1]) or not math.isfinite(diagonal[-1]):
            raise NumericsError("curvature: a product with the Hessian is NaN or infinite; check the weights")
        if off_diagonal[-1] <= 10 * torch.finfo(operator.dtype).eps * max(map(abs, diagonal + off_diagonal)):
            break
        if step + 1 < count:
            basis[step + 1] = product / off_diagonal[-1]
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal[:-1])
    order = values.argsort()[::-1]
    residuals = np.abs(off_diagonal[-1] * vectors[-1])
    top = torch.from_numpy(vectors[:, order[0]].copy()).to(basis) @ basis[: len(diagonal)]
    return Ritz(values[order], np.square(vectors[0])[order], residuals[order], top)


def hutchinson(operator: Operator, draws: int, generator: torch.Generator) -> np.ndarray:
    """Unbiased estimates of the trace, z' A z with z of random signs (Hutchinson 1990); (draws,).

    Raises:
        ConfigError: fewer than one draw.
    """
    if draws < 1:
        raise ConfigError(f"curvature.draws: found {draws}, expected at least 1")
    return np.array(
        [float((z.double() @ operator.matvec(z).double()).item()) for z in probes(operator, draws, generator)]
    )


def probes(operator: Operator, draws: int, generator: torch.Generator) -> Iterator[Float[Tensor, " p"]]:
    """The vectors of random signs of `hutchinson`."""
    for _ in range(draws):
        yield _signs(operator, generator)


def spectral_density(
    operator: Operator, draws: int, steps: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The density of eigenvalues by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017).

    Returns:
        Nodes and weights, (draws, steps) each: the mean of f over all eigenvalues is about the sum of
        weights * f(nodes); exactly for f(t) = 1, and without bias for polynomials of degree below 2 `steps`.
        Places that an early end of Lanczos leaves have weight 0.
    """
    nodes, weights = np.zeros((draws, steps)), np.zeros((draws, steps))
    for draw in range(draws):
        ritz = lanczos(operator, _signs(operator, generator), steps)
        nodes[draw, : len(ritz.values)] = ritz.values
        weights[draw, : len(ritz.values)] = ritz.weights / draws
    return nodes, weights


def _signs(operator: Operator, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (operator.size,), generator=generator) * 2 - 1
    return signs.to(operator.device, operator.dtype)
