"""Margins on the way to the boundary, and by how much the way is stretched, against functions known by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.errors import ConfigError, ModelError
from robustlens.explain.bound.geometry import margin_paths, stretch, violations
from robustlens.models.last_layer import last_linear


class _Curve(nn.Module):
    """Two classes on the line whose margin is `curve`."""

    def __init__(self, curve):
        super().__init__()
        self.curve = curve

    def forward(self, x):
        return torch.cat([self.curve(x), torch.zeros_like(x)], 1)


def _paths(curve, points=20):
    start, end = torch.tensor([[0.0], [0.5]]), torch.tensor([[1.0], [1.0]])
    return margin_paths(_Curve(curve), start, torch.tensor([0, 0]), end, points=points, batch_size=1)


def test_a_margin_that_falls_all_the_way_keeps_the_assumption():
    paths = _paths(lambda x: 1 - x)
    np.testing.assert_allclose(paths[0], np.linspace(1, 0, 21), atol=1e-6)
    np.testing.assert_allclose(paths[1], np.linspace(0.5, 0, 21), atol=1e-6)
    assert violations(paths) == {"paths": 0.0, "steps": 0.0, "largest": 0.0}


def test_rises_are_counted_by_path_and_by_step():
    # From 0 to 1 in 20 steps: up by 4/5 in the first quarter, then down; from 1/2 it only falls.
    found = violations(_paths(lambda x: torch.where(x < 0.25, 1 + 3.2 * x, 2.4 * (1 - x))))
    assert found["paths"] == 0.5
    assert found["steps"] == 5 / 40
    assert found["largest"] == pytest.approx(0.16 / 1.8, rel=1e-5)


def test_rounding_and_plateaus_are_no_rises():
    flat = violations(np.array([[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-7, 0.0]]))
    assert (flat["paths"], flat["steps"]) == (0.0, 0.0)
    assert violations(np.array([[1.0, 1.001, 0.0]]))["paths"] == 1.0
    assert violations(np.zeros((2, 5)))["paths"] == 0.0
    assert violations(np.zeros((0, 5))) == {"paths": None, "steps": None, "largest": None}
    with pytest.raises(ConfigError, match="found 0, expected at least 1"):
        _paths(lambda x: x, points=0)


def test_a_rise_of_a_hundred_thousandth_is_rounding_and_more_is_none():
    paths = np.array([[0.0, 1e-5, -1.0], [0.0, 1.1e-5, -1.0], [2.0, 2.0 + 1.9e-5, 0.0]])
    assert violations(paths[:1]) == {"paths": 0.0, "steps": 0.0, "largest": pytest.approx(1e-5)}
    assert violations(paths[1:2]) == {"paths": 1.0, "steps": 0.5, "largest": pytest.approx(1.1e-5)}
    assert violations(paths[2:])["paths"] == 0.0
    assert violations(np.zeros((2, 5))) == {"paths": 0.0, "steps": 0.0, "largest": 0.0}


def test_a_linear_network_stretches_by_its_matrix():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Linear(9, 7), nn.Linear(7, 3))
    x, _ = images(10)
    delta = torch.rand_like(x) - 0.5
    matrix = model[2].weight @ model[1].weight
    exact = (delta.flatten(1) @ matrix.T).norm(dim=1) / delta.flatten(1).norm(dim=1)
    found = stretch(model, x, x + delta, batch_size=4)
    np.testing.assert_allclose(found["at_x"], exact.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(found["on_the_way"], exact.detach().numpy(), rtol=1e-4)


def test_the_jacobian_at_x_is_not_that_on_the_way():
    """From x = -1 the ReLU is off; the way to 3 crosses it after a quarter."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(inplace=True), nn.Linear(1, 2))
    model[0].weight.data.fill_(2.0)
    found = stretch(model, torch.tensor([[-1.0], [1.0]]), torch.tensor([[3.0], [3.0]]))
    assert found["at_x"].tolist() == pytest.approx([0.0, 2.0])
    assert found["on_the_way"].tolist() == pytest.approx([1.5, 2.0])


@pytest.mark.parametrize("name", ["small-cnn", "resnet8", "preactresnet18"])
def test_the_jacobian_agrees_with_finite_differences(name):
    torch.manual_seed(0)
    model = rl.models.get(name, num_classes=3, width=4).double()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    near = x + 1e-7 * torch.randn_like(x)
    before = Snapshot(model)
    found = stretch(model, x, near)
    before.assert_unchanged()
    np.testing.assert_allclose(found["at_x"], found["on_the_way"], rtol=1e-4)


def test_no_boundary_points_give_no_numbers():
    x, y = images(3)
    assert stretch(everything(), x[:0], x[:0])["at_x"].size == 0
    assert margin_paths(everything(), x[:0], y[:0], x[:0]).shape == (0, 21)


def test_the_layer_before_the_logits():
    x, _ = images(2)
    assert last_linear(everything(), x) == "fc"
    shared = nn.Linear(48, 48)
    for model, found in [
        (nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten()), "'0', 1 times"),
        (nn.Sequential(nn.Flatten(), shared, shared), "'1', 2 times"),
        (nn.Flatten(), "none"),
    ]:
        with pytest.raises(ModelError, match=f"found {found} as the last layer"):
            last_linear(model, x)
