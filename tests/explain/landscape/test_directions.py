"""Directions in weight space, and a quadratic values_on_line and values_on_plane them."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.small_models import Snapshot, everything
from robustlens.errors import ConfigError
from robustlens.explain.landscape import filter_normalised, values_on_line, values_on_plane


def test_the_landscape_of_a_quadratic_equals_its_formula():
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=True).double()
    a = torch.randn(24, 24, dtype=torch.float64)
    hessian, gradient = a @ a.T, torch.randn(24, dtype=torch.float64)

    def quadratic():
        w = model.weight.detach().flatten()
        return float(0.5 * w @ hessian @ w + gradient @ w)

    direction = filter_normalised(model, torch.Generator().manual_seed(1))
    d, w = direction["weight"].flatten(), model.weight.detach().flatten()
    alphas = [-1.0, -0.3, 0.5, 2.0]
    before = Snapshot(model)
    found = list(values_on_line(model, direction, alphas, quadratic))
    before.assert_unchanged()
    slope, curvature = (gradient + hessian @ w) @ d, d @ hessian @ d
    expected = [quadratic() + float(alpha * slope + 0.5 * alpha**2 * curvature) for alpha in alphas]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_network_moves_as_the_one_that_it_was_made_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x, values = torch.rand(5, 3), []
    for each in (model, torch.jit.script(model)):
        direction = filter_normalised(each, torch.Generator().manual_seed(1))
        points = values_on_line(each, direction, [0.0, 0.5], lambda each=each: each(x).detach().numpy())
        values.append(list(points))
    np.testing.assert_array_equal(*values)


def test_a_network_whose_weights_are_buffers_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="weights: found none to move, expected a network with parameters"):
        list(values_on_line(nn.Flatten(), {}, [0.0], float))


def test_a_quadratic_on_the_plane_equals_its_formula():
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double()
    a = torch.randn(24, 24, dtype=torch.float64)
    hessian, gradient = a @ a.T, torch.randn(24, dtype=torch.float64)

    def quadratic():
        w = model.weight.detach().flatten()
        return float(0.5 * w @ hessian @ w + gradient @ w)

    directions = tuple(filter_normalised(model, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    d, e = (direction["weight"].flatten() for direction in directions)
    w, alphas = model.weight.detach().flatten(), [-1.0, 0.0, 0.7]
    before = Snapshot(model)
    found = list(values_on_plane(model, directions, alphas, quadratic))
    before.assert_unchanged()
    moved = [w + a * d + b * e for a in alphas for b in alphas]
    np.testing.assert_allclose(
        found, [float(0.5 * v @ hessian @ v + gradient @ v) for v in moved], rtol=1e-10
    )


def test_directions_have_the_norm_of_each_filter_and_leave_one_dimensional_weights():
    model = everything()
    direction = filter_normalised(model, torch.Generator().manual_seed(0))
    assert set(direction) == {"conv.weight", "fc.weight"}
    for name, d in direction.items():
        w = model.get_parameter(name).detach()
        torch.testing.assert_close(d.flatten(1).norm(dim=1), w.flatten(1).norm(dim=1))
    other = filter_normalised(model, torch.Generator().manual_seed(1))
    assert not torch.equal(direction["fc.weight"], other["fc.weight"])


def test_weights_come_back_when_a_point_fails():
    model = everything()
    before = Snapshot(model)
    direction = filter_normalised(model, torch.Generator().manual_seed(0))

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(values_on_line(model, direction, [0.5], fail))
    before.assert_unchanged()
