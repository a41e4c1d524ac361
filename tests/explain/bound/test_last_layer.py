"""The last layer of the bound: a BatchNorm that it reads, or is read by, counts with it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import Snapshot, trained
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.geometry import stretch
from robustlens.explain.bound.instance_margins import InstanceMargins
from robustlens.explain.bound.theorem import Bound
from robustlens.models.preact_resnet import PreActBlock

SHAPE = (3, 8, 8)


def _preactivation() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    )


def _on_pixels() -> nn.Sequential:
    """The last layer reads four pixels of each channel."""
    maps = [nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3)]
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(16, 3))


def _blocks() -> nn.Sequential:
    maps = [nn.Conv2d(3, 4, 3, padding=1), PreActBlock(4, 4, 1), PreActBlock(4, 4, 1), nn.BatchNorm2d(4)]
    return nn.Sequential(*maps, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


NETWORKS = {
    "blocks": (_blocks, "3", "7"),
    "preactivation": (_preactivation, "3", "5"),
    "pixels": (_on_pixels, "2", "6"),
    "preactresnet18": (
        lambda: rl.models.get("preactresnet18", num_classes=3, width=4, final_norm=True),
        "bn",
        "linear",
    ),
}


def network(name: str) -> tuple[nn.Module, nn.modules.batchnorm._BatchNorm, nn.Linear]:
    """A network in float64, its last BatchNorm and its last layer."""
    torch.manual_seed(0)
    build, norm, last = NETWORKS[name]
    model = trained(build())
    before, after = model.get_submodule(norm), model.get_submodule(last)
    assert isinstance(before, nn.modules.batchnorm._BatchNorm)
    assert isinstance(after, nn.Linear)
    return model, before, after


def rescale(norm: nn.modules.batchnorm._BatchNorm, last: nn.Linear, factor: Tensor) -> None:
    """Channels times factors > 0, and what reads them divided by these: the logits stay."""
    with torch.no_grad():
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
        last.weight.div_(factor.repeat_interleave(last.in_features // len(factor)))


def images() -> Tensor:
    return torch.rand(10, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def bound_of(model: nn.Module, v_min: float = 1.0) -> Bound:
    """With margins and a covering that are given."""
    x, y = images(), torch.arange(10) % 3
    margins = InstanceMargins(np.full(10, v_min), None, np.ones(10, dtype=bool), x)
    covered = Covering(np.ones(1), np.ones(1), 2.0, 1.0, points=10)
    return rl.explain.bound(model, x, y, x, y, eps=0.1, margins=margins, covered=covered)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("factor", [100.0, 0.01, "channels"])
def test_a_scale_that_leaves_the_logits_as_they_are_changes_no_term(name: str, factor: float | str) -> None:
    model, norm, last = network(name)
    x = images()
    near = x + 0.1 * torch.randn_like(x)
    v_min = 0.1 + math.exp(-bound_of(model).log_u_min)  # a feature margin of 1 in the balls
    logits, terms, ways = model(x), bound_of(model, v_min), stretch(model, x, near)
    assert 0 < terms.margin_term[-2] < 1 or name == "preactresnet18"  # whose strided shortcuts are singular
    channels = torch.logspace(-2, 2, norm.num_features, dtype=torch.float64)
    factors = channels if isinstance(factor, str) else torch.full_like(channels, factor)
    rescale(norm, last, factors)
    torch.testing.assert_close(model(x), logits)
    before = Snapshot(model)
    after, ways_after = bound_of(model, v_min), stretch(model, x, near)
    before.assert_unchanged()
    assert after.log_u_min == pytest.approx(terms.log_u_min, abs=1e-6)
    assert after.sigma_min == pytest.approx(terms.sigma_min, rel=1e-6)
    np.testing.assert_allclose(after.distances, terms.distances, rtol=1e-6)
    np.testing.assert_allclose(after.margin_term, terms.margin_term, rtol=1e-6, atol=1e-12)
    for key, values in ways.items():
        np.testing.assert_allclose(ways_after[key], values, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_and_the_features_are_those_of_one_network(name: str) -> None:
    """Where the BatchNorm has factors of 1 the last weight and what it reads are taken as they stand."""
    model, norm, last = network(name)
    factor = norm.weight.detach() / (norm.get_buffer("running_var") + norm.eps).sqrt()
    rescale(norm, last, 1 / factor.abs())
    weight = last.weight.detach()
    exact = torch.linalg.vector_norm(weight[:, None] - weight, dim=2)
    np.testing.assert_allclose(bound_of(model).distances, exact, rtol=1e-9)
    x = images()
    read: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, args: read.append(args[0].detach()))
    model(x)
    model(near := x + 0.1)
    handle.remove()
    moved = (read[1] - read[0]).norm(dim=1) / (near - x).flatten(1).norm(dim=1)
    np.testing.assert_allclose(stretch(model, x, near)["on_the_way"], moved, rtol=1e-9)


def test_a_batch_norm_of_the_logits_counts() -> None:
    """Its factors are in the rows of the last layer, which it follows."""
    torch.manual_seed(0)
    model = trained(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 3), nn.BatchNorm1d(3))
    )
    norm = model[4]
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    rows = model[3].weight.detach() * factor[:, None]
    exact = torch.linalg.vector_norm(rows[:, None] - rows, dim=2)
    np.testing.assert_allclose(bound_of(model).distances, exact, rtol=1e-9)
    assert set(bound_of(model).sigma_min) == {"1"}
    assert not bound_of(model).uncovered


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_logits_that_are_scaled_behind_the_last_layer_have_no_bound(factor: float) -> None:
    """Their margins are, and the rows of the layer are not."""

    class Scaled(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return factor * super().forward(input)

    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 3)
    assert bound_of(nn.Sequential(*layers)).summary()["is_bound"]
    terms = bound_of(Scaled(*layers))
    assert not terms.summary()["is_bound"]
    assert terms.uncovered["logits"].kind == "not those of 3"


def test_a_feature_without_a_scale_is_no_way() -> None:
    """Nothing passes a factor of 0: it leaves no distance of rows and no stretch, and no NaN."""
    model, norm, _ = network("preactivation")
    with torch.no_grad():
        norm.weight[0] = 0.0
    found = stretch(model, images(), images() + 0.1)
    assert all(np.isfinite(values).all() for values in found.values())
    assert math.isfinite(bound_of(model).log_u_min)
