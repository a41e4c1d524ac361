"""Lanczos, Hutchinson and densities against dense matrices."""

import numpy as np
import pytest
import torch

from robustlens.errors import ConfigError, NumericsError
from robustlens.explain.lanczos import hutchinson, lanczos, spectral_density


class Dense:
    """An operator whose matrix is at hand."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector):
        return self.matrix @ vector


def symmetric(size, seed=0):
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.T) / 2


def test_lanczos_finds_the_ends_of_a_spectrum_and_says_how_well():
    matrix = symmetric(120) + torch.diag(torch.tensor([60.0, 40.0, *[0.0] * 118], dtype=torch.float64))
    wanted = np.sort(np.linalg.eigvalsh(matrix.numpy()))[::-1]
    found = lanczos(Dense(matrix), torch.ones(120, dtype=torch.float64), 40)
    np.testing.assert_allclose(found.values[:2], wanted[:2], rtol=1e-10)
    torch.testing.assert_close(matrix @ found.top, found.values[0] * found.top, rtol=0, atol=1e-6)
    assert float(found.top.norm()) == pytest.approx(1.0)
    nearest = np.abs(found.values[:, None] - wanted).min(1)
    assert (nearest <= found.residuals + 1e-9).all()
    assert found.residuals[20] > 1e-3  # in the middle it knows that it does not know
    assert (np.diff(found.values) < 0).all()


def test_full_reorthogonalisation_finds_every_eigenvalue_once():
    """Without it, rounding brings copies of the largest, which converge first."""
    values = torch.cat([torch.linspace(0, 1, 58), torch.tensor([100.0, 1000.0])]).double()
    q, _ = torch.linalg.qr(symmetric(60, 3))
    found = lanczos(Dense(q @ torch.diag(values) @ q.T), torch.ones(60, dtype=torch.float64), 60)
    np.testing.assert_allclose(found.values, values.numpy()[np.argsort(values.numpy())[::-1]], atol=1e-8)


def test_lanczos_ends_where_the_krylov_space_is_exhausted():
    matrix = torch.diag(torch.tensor([3.0, 3.0, 1.0, -2.0, -2.0], dtype=torch.float64))
    found = lanczos(Dense(matrix), torch.ones(5, dtype=torch.float64), 5)
    np.testing.assert_allclose(found.values, [3, 1, -2], atol=1e-12)
    np.testing.assert_allclose(found.weights, [0.4, 0.2, 0.4], atol=1e-12)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-10)
    zero = lanczos(Dense(torch.zeros(4, 4)), torch.ones(4), 3)
    assert zero.values.tolist() == [0.0]


def test_hutchinson_is_exact_for_diagonal_matrices_and_unbiased_for_others():
    diagonal = torch.diag(torch.arange(5.0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    np.testing.assert_allclose(hutchinson(Dense(diagonal), 3, generator), 10.0)
    matrix = symmetric(30)
    found = hutchinson(Dense(matrix), 2000, generator)
    off = matrix - torch.diag(matrix.diag())
    # The variance of z' A z is twice the squared Frobenius norm of what is off the diagonal.
    assert found.var() == pytest.approx(2 * float(off.square().sum()), rel=0.15)
    assert abs(found.mean() - float(matrix.trace())) < 4 * found.std() / 2000**0.5


def test_the_density_has_the_moments_of_the_spectrum():
    """Of a start vector of signs a Gauss rule with m nodes has the moments up to degree 2m - 1 exactly."""
    matrix = symmetric(40)
    generator = torch.Generator().manual_seed(0)
    nodes, weights = spectral_density(Dense(matrix), 1, 4, generator)
    start = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    power = start.double() / 40**0.5
    for degree in range(8):
        wanted = float(start.double() / 40**0.5 @ power)
        assert (weights * nodes**degree).sum() == pytest.approx(wanted, rel=1e-10, abs=1e-10)
        power = matrix @ power
    nodes, weights = spectral_density(Dense(matrix), 400, 3, generator)
    assert weights.sum() == pytest.approx(1)
    first, second = float(matrix.trace()) / 40, float((matrix @ matrix).trace()) / 40
    by_draw = 400 * (weights * nodes).sum(1), 400 * (weights * nodes**2).sum(1)
    for found, moment in zip(by_draw, (first, second), strict=True):
        assert abs(found.mean() - moment) < 4 * found.std() / 20


def test_wrong_counts_and_broken_products_are_refused():
    with pytest.raises(ConfigError, match="lanczos_steps: found 0"):
        lanczos(Dense(symmetric(3)), torch.ones(3, dtype=torch.float64), 0)
    with pytest.raises(ConfigError, match="draws: found 0"):
        hutchinson(Dense(symmetric(3)), 0, torch.Generator())
    with pytest.raises(NumericsError, match="NaN or infinite"):
        lanczos(Dense(symmetric(3) * torch.nan), torch.ones(3, dtype=torch.float64), 2)


def test_each_residual_is_that_of_its_own_ritz_vector():
    """Against the Ritz vectors of the Krylov space, spanned by powers of the matrix."""
    matrix, steps = symmetric(30, 5), 6
    powers = [torch.ones(30, dtype=torch.float64)]
    for _ in range(steps - 1):
        powers.append(matrix @ powers[-1])
    basis, _ = torch.linalg.qr(torch.stack(powers, 1))
    values, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    ritz = basis @ vectors
    residuals = (matrix @ ritz - ritz * values).norm(dim=0)
    weights = (powers[0] / powers[0].norm() @ ritz).square()
    ours = lanczos(Dense(matrix), powers[0], steps)
    np.testing.assert_allclose(ours.values, values.flip(0), rtol=1e-8)
    np.testing.assert_allclose(ours.residuals, residuals.flip(0), rtol=1e-6)
    np.testing.assert_allclose(ours.weights, weights.flip(0), rtol=1e-6)
    assert residuals.max() > 2 * residuals.min()  # so that another vector's would be noticed


def test_one_step_is_the_quotient_of_rayleigh():
    matrix, start = symmetric(8, 2), torch.ones(8, dtype=torch.float64)
    quotient = float(start @ matrix @ start) / 8
    one = lanczos(Dense(matrix), start, 1)
    assert one.values.tolist() == pytest.approx([quotient])
    assert one.weights.tolist() == pytest.approx([1.0])
    assert one.residuals.tolist() == pytest.approx(
        [float((matrix @ start - quotient * start).norm()) / 8**0.5]
    )
    torch.testing.assert_close(one.top.abs(), start / 8**0.5)


def test_the_basis_stays_orthogonal_where_a_step_is_nearly_the_last():
    """Of eigenvalues that differ in the eleventh digit one pass of Gram and Schmidt keeps five digits."""
    generator = torch.Generator().manual_seed(0)
    values = 1 + 1e-11 * torch.randn(40, generator=generator, dtype=torch.float64)
    found = lanczos(Dense(torch.diag(values)), torch.ones(40, dtype=torch.float64), 4)
    assert len(found.values) == 4
    assert float(found.top.norm()) == pytest.approx(1.0, abs=1e-12)
