"""The bound of networks that use a layer several times, against the same function with copies of it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import trained
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.instance_margins import InstanceMargins
from robustlens.explain.bound.theorem import Bound


class Attended(nn.Module):
    """Six numbers as three tokens that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 3, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


class Again(nn.Module):
    """A module of its own that calls its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu()).relu()


def _chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *modules, nn.Linear(6, 2))


def _linear() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return _chain(layer, nn.ReLU(), layer, nn.ReLU(), layer)


def _convolution() -> nn.Sequential:
    layer, relu = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()
    return nn.Sequential(layer, relu, layer, relu, nn.Flatten(), nn.Linear(6, 2))


def _norm_apart() -> nn.Sequential:
    norm = nn.BatchNorm1d(6)
    return _chain(nn.Tanh(), norm, nn.Tanh(), norm, nn.Tanh())


def _norm_read_by_layers() -> nn.Sequential:
    norm = nn.BatchNorm1d(6)
    return _chain(nn.Tanh(), norm, nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), norm)


def _layer_and_norm() -> nn.Sequential:
    stage = nn.Sequential(nn.Tanh(), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6))
    return _chain(stage, stage)


def _normalisation() -> nn.Sequential:
    normalize = rl.models.Normalize([0.5], [0.25])
    return nn.Sequential(normalize, normalize, nn.Flatten(), nn.Linear(6, 2))


def _attention() -> nn.Sequential:
    attended = Attended()
    return _chain(attended, nn.ReLU(), attended)


SHARED = [
    _linear,
    _convolution,
    _norm_apart,
    _norm_read_by_layers,
    _layer_and_norm,
    _normalisation,
    _attention,
]


def bound_of(model: nn.Module) -> Bound:
    """With margins and a covering that are given."""
    x, y = torch.rand(10, 1, 2, 3, dtype=torch.float64), torch.arange(10) % 2
    margins = InstanceMargins(np.ones(10), None, np.ones(10, dtype=bool), x)
    covered = Covering(np.ones(1), np.ones(1), 2.0, 1.0, points=10)
    return rl.explain.bound(model, x, y, x, y, eps=0.1, margins=margins, covered=covered)


def _with_copies(model: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*[copy.deepcopy(module) for module in model])


@pytest.mark.parametrize("build", SHARED)
def test_a_layer_counts_as_often_as_it_runs(build) -> None:
    torch.manual_seed(0)
    model = trained(build())
    copies = _with_copies(model)
    x = torch.rand(4, 1, 2, 3, dtype=torch.float64)
    assert torch.equal(model(x), copies(x))
    found, expected = bound_of(model), bound_of(copies)
    assert found.log_u_min == pytest.approx(expected.log_u_min, rel=1e-9)
    assert found.log_sigma_product == pytest.approx(expected.log_sigma_product, rel=1e-9)
    assert len(found.sigma_min) <= len(expected.sigma_min)
    assert expected.summary()["calls"] == {}


def test_a_layer_that_the_forward_pass_of_a_module_calls_twice() -> None:
    torch.manual_seed(0)
    model = trained(_chain(Again()))
    found = bound_of(model)
    smallest = float(torch.linalg.svdvals(model[1].layer.weight.detach())[-1])
    assert found.sigma_min == pytest.approx({"1.layer": smallest})
    assert found.log_sigma_product == pytest.approx(2 * math.log(smallest))
    assert found.summary()["calls"] == {"1.layer": 2}


def test_a_batch_norm_is_in_no_layer_where_one_of_its_calls_is_read_by_none() -> None:
    torch.manual_seed(0)
    norm, layer = nn.BatchNorm1d(6), nn.Linear(6, 6)
    model = trained(_chain(nn.Tanh(), norm, nn.ReLU(), layer, nn.Tanh(), norm, nn.Tanh()))
    scale = (norm.weight / (norm.get_buffer("running_var") + norm.eps).sqrt()).detach().abs()
    smallest = float(torch.linalg.svdvals(layer.weight.detach())[-1])
    found = bound_of(model)
    assert found.sigma_min == pytest.approx({"2": float(scale.min()), "4": smallest})
    assert found.log_sigma_product == pytest.approx(2 * math.log(scale.min()) + math.log(smallest))


def test_a_normalisation_that_does_not_run_counts_nowhere() -> None:
    model = trained(_chain())
    model[0].unused = rl.models.Normalize([0.5], [0.25])
    assert bound_of(model).sigma_min == {}
