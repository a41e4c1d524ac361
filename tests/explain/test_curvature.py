"""Hessians against autograd's, Lanczos and Hutchinson against dense matrices, and freedom from scale."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.errors import ConfigError, NumericsError
from robustlens.explain.curvature import (
    Dense,
    Hessian,
    curvature,
    filter_units,
    hutchinson,
    lanczos,
    spectral_density,
)
from robustlens.explain.landscape import filter_normalised


def symmetric(size, seed=0):
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.T) / 2


def network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3)).double()


def data(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def matrix_of(operator):
    identity = torch.eye(operator.size, dtype=operator.dtype)
    return torch.stack([operator.matvec(column) for column in identity], 1)


def dense_hessian(model, x, y, temperature=1.0):
    """By autograd, on the weights of both linear layers as one vector."""
    shapes = [model[0].weight.shape, model[2].weight.shape]

    def loss(flat):
        first, second = (part.view(shape) for part, shape in zip(flat.split([30, 15]), shapes, strict=True))
        hidden = F.relu(F.linear(x, first, model[0].bias))
        return F.cross_entropy(F.linear(hidden, second, model[2].bias) / temperature, y)

    flat = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    return torch.autograd.functional.hessian(loss, flat)


# -- the operator --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("batch_size", [12, 5])
def test_the_hessian_is_that_of_autograd(inplace, batch_size):
    model, (x, y) = network(inplace), data()
    found = matrix_of(Hessian(model, x, y, batch_size=batch_size, temperature=0.7))
    torch.testing.assert_close(found, dense_hessian(model, x, y, 0.7), rtol=0, atol=1e-12)


def test_units_scale_both_sides():
    model, (x, y) = network(), data()
    units = filter_units(model)
    # A filter of a linear layer is a row.
    torch.testing.assert_close(units["0.weight"][:, 0] ** 2, model[0].weight.detach().square().mean(1))
    d = torch.cat([units["0.weight"].flatten(), units["2.weight"].flatten()])
    wanted = d[:, None] * dense_hessian(model, x, y) * d
    torch.testing.assert_close(matrix_of(Hessian(model, x, y, units=units)), wanted, rtol=0, atol=1e-12)


def test_rescaled_layers_have_the_same_relative_curvature_and_another_plain_one():
    """ReLU(c W x + c b) = c ReLU(W x + b): the next layer by 1/c leaves the function as it was."""
    x, y = data()
    threat = rl.ThreatModel("Linf", 0.05)
    model, scaled = network(), network()
    with torch.no_grad():
        scaled[0].weight.mul_(7)
        scaled[0].bias.mul_(7)
        scaled[2].weight.div_(7)
    one, other = (curvature(each, x, y, threat, lanczos_steps=45, draws=3) for each in (model, scaled))
    for name in ("relative_eigenvalues", "relative_trace"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-8)
    assert not np.isclose(other["eigenvalues"][0], one["eigenvalues"][0], rtol=0.1)


def test_the_scale_of_the_logits_leaves_the_relative_hessian_as_it_is():
    """Without an attack: one on the cross entropy of other logits finds other images."""
    model, louder = network(), network()
    x, _ = data(40)
    y = model(x).argmax(1)
    y[:10] = (y[:10] + 1) % 3  # some mistakes, or the best temperature is the coldest that is looked for
    with torch.no_grad():
        louder[2].weight.mul_(3)
        louder[2].bias.mul_(3)
    options = {"lanczos_steps": 45, "draws": 3}
    one, other = (curvature(each, x, y, rl.ThreatModel("Linf", 0.0), **options) for each in (model, louder))
    np.testing.assert_allclose(
        other["relative_eigenvalues"], one["relative_eigenvalues"], rtol=1e-6, atol=1e-9
    )
    assert not np.isclose(other["trace"].mean(), one["trace"].mean(), rtol=0.1)


def test_the_relative_trace_is_the_mean_second_derivative_along_filter_normalised_directions():
    model, (x, y) = network(), data()
    operator, relative = Hessian(model, x, y), Hessian(model, x, y, units=filter_units(model))
    bends = []
    for draw in range(3000):
        d = filter_normalised(model, torch.Generator().manual_seed(draw))
        flat = torch.cat([d["0.weight"].flatten(), d["2.weight"].flatten()])
        bends.append(flat)
    directions, hessian = torch.stack(bends), matrix_of(operator)
    along = ((directions @ hessian) * directions).sum(1)
    error = along.std() / len(along) ** 0.5
    assert abs(along.mean() - matrix_of(relative).trace()) < 4 * error


def test_the_adversarial_images_are_those_of_w_and_the_model_is_left_alone():
    model, (x, y) = everything(), images(8)
    before = Snapshot(model)
    found = curvature(model, x, y, rl.ThreatModel("Linf", 0.1), lanczos_steps=3, draws=1, eigenvalues=2)
    before.assert_unchanged()
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=10)
    at_them = Hessian(model, attack(model, x, y), y)
    start = torch.randint(0, 2, (at_them.size,), generator=rl.noise.generator_for(0, 1)) * 2.0 - 1
    assert found["trace"][0] == pytest.approx(float(start @ at_them.matvec(start)), rel=1e-3)
    assert found["eigenvalues"].shape == found["residuals"].shape == (2,)


# -- the algorithms ------------------------------------------------------------------------------------


def test_lanczos_finds_the_ends_of_a_spectrum_and_says_how_well():
    matrix = symmetric(120) + torch.diag(torch.tensor([60.0, 40.0, *[0.0] * 118], dtype=torch.float64))
    wanted = np.sort(np.linalg.eigvalsh(matrix.numpy()))[::-1]
    found = lanczos(Dense(matrix), torch.ones(120, dtype=torch.float64), 40)
    np.testing.assert_allclose(found.values[:2], wanted[:2], rtol=1e-10)
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


def test_wrong_arguments_and_broken_weights_are_refused():
    model, (x, y) = network(), data()
    with pytest.raises(ConfigError, match="0 images"):
        Hessian(model, x[:0], y[:0])
    with pytest.raises(ConfigError, match="lanczos_steps: found 0"):
        lanczos(Dense(symmetric(3)), torch.ones(3, dtype=torch.float64), 0)
    with pytest.raises(ConfigError, match="draws: found 0"):
        hutchinson(Dense(symmetric(3)), 0, torch.Generator())
    with pytest.raises(NumericsError, match="NaN or infinite"):
        lanczos(Dense(symmetric(3) * torch.nan), torch.ones(3, dtype=torch.float64), 2)
