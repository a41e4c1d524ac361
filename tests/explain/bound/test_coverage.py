"""The bound on networks of every kind of layer: in its terms, or named as left out."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.known_networks import WIDE
from helpers.layer_kinds import COVERED, UNCOVERED, around
from robustlens.data import from_tensors
from robustlens.explain import Subject
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.instance_margins import InstanceMargins
from robustlens.explain.bound.measure import measure_bound
from robustlens.explain.bound.theorem import Bound

ENDED = {kind: module for kind, module in (COVERED | UNCOVERED).items() if kind != "script"}


class Rows(nn.Module):
    """Images (1, 4, 6) as (4, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).view(-1, 4, 6)


def bound_of(kind: str) -> Bound:
    """Of a network with such a layer, whose margins and covering are given."""
    body = around(ENDED[kind])
    x, y = torch.rand(10, 4, 6), torch.arange(10) % 2
    torch.manual_seed(0)
    with torch.no_grad():
        model = nn.Sequential(body, nn.Linear(body(x[:1]).shape[1], 2))
    margins = InstanceMargins(np.ones(10), None, np.ones(10, dtype=bool), x)
    covered = Covering(np.ones(1), np.ones(1), 2.0, 1.0, points=10)
    return rl.explain.bound(
        model, x, y, x, y, eps=0.1, margins=margins, covered=covered, operator="zero", bounds=WIDE
    )


@pytest.mark.parametrize("kind", ENDED)
def test_small_weights_change_what_is_said(kind: str) -> None:
    """Weights of each kind times 1e-6: the terms change, or what the bound leaves out does."""
    before = bound_of(kind)
    kept = {name: value.clone() for name, value in ENDED[kind].state_dict().items()}
    with torch.no_grad():
        for name, value in ENDED[kind].state_dict().items():
            if value.is_floating_point() and "running" not in name:
                value.mul_(1e-6)
    after = bound_of(kind)
    ENDED[kind].load_state_dict(kept)
    summary = before.summary()
    assert summary["is_bound"] == (not before.uncovered)
    if kind in UNCOVERED:
        assert before.uncovered.keys() == after.uncovered.keys() != set()
        norms = [part.norm for part in before.uncovered.values()]
        assert [part.norm for part in after.uncovered.values()] != norms or sum(norms) == 0
    else:
        assert after.log_sigma_product < before.log_sigma_product - 5
        assert set(before.uncovered) == ({"0.1.norm1", "0.1.norm2"} if kind == "encoder layer" else set())
    json.dumps(summary, allow_nan=False)


def test_what_the_bound_reads_in_the_networks_favour() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, stride=2), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.rand(12, 2, 5, 5)
    model[4].bias.data -= model(x).mean(0).detach()  # both classes are near
    y = model(x).argmax(1)
    y[0] = 1 - y[0]
    margins = rl.explain.instance_margins(model, x, y, steps=10)
    found = rl.explain.bound(model, x, y, x, y, eps=0.1, margins=margins)
    assert found.narrowing == ("2",)
    readings = "; ".join(found.favourable())
    assert "the null space of 2 counts as nothing lost" in readings
    assert "v_min is over the 11 of 12 images that are right" in readings
    assert "convolutions wrap around" in readings
    zero = rl.explain.bound(model, x, y, x, y, eps=0.1, margins=margins, operator="zero")
    assert "wrap around" not in "; ".join(zero.favourable())
    wrong = 1 - model(x).argmax(1)
    margins = rl.explain.instance_margins(model, x, wrong, steps=10)
    none = rl.explain.bound(model, x, wrong, x, y, eps=0.1, margins=margins)
    assert (none.margin_term == 0).all()
    assert "none of 12 images is right: v_min is infinite, and the margin term 0" in none.favourable()


def test_a_batch_norm_that_is_in_no_layer_is_one_of_its_own() -> None:
    norm = nn.BatchNorm1d(6)
    norm.weight.data.fill_(0.5)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), norm, nn.Tanh(), nn.Linear(6, 2)).eval()
    x, y = torch.rand(20, 6), torch.arange(20) % 2
    margins = rl.explain.instance_margins(model, x, y, steps=4)
    found = rl.explain.bound(model, x, y, x, y, eps=0.1, margins=margins)
    assert found.sigma_min["2"] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("kind", ENDED)
def test_the_measure_takes_networks_of_every_kind(kind: str) -> None:
    """Also those whose operations have no forward derivative, or no rule for a certificate."""
    model, x = nn.Sequential(Rows(), around(ENDED[kind])), torch.rand(30, 4, 6)
    features = model(x[:1]).shape[1]
    model.append(nn.Linear(features, 2)).eval()
    pixels = torch.randint(0, 256, (30, 1, 4, 6), dtype=torch.uint8)
    y = torch.arange(30) % 2
    splits = from_tensors(pixels[:20], y[:20], pixels[20:], y[20:], classes=("a", "b"), validation=0.0)
    subject = Subject(model, splits.train, splits.test, rl.ThreatModel("Linf", 0.05))
    options: dict[str, Any] = {"examples": 6, "steps": 8, "points": 2}
    found = measure_bound(subject, **options)
    named = "It is not a bound on this network" in found.what
    assert named == bool(found.value["uncovered"]) == (not found.value["is_bound"])
    assert named == (kind in UNCOVERED or kind == "encoder layer")
