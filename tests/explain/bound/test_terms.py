"""Terms of the bound on networks in which they are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.known_networks import WIDE, orthogonal_network
from helpers.small_models import Snapshot


def test_the_feature_margin_that_the_theorem_promises_is_met_exactly_by_anorthogonal_network():
    model, x = orthogonal_network(), torch.rand(60, 12)
    logits = model(x).detach()
    y = logits.argmax(1)
    margins = rl.explain.instance_margins(model, x, y, bounds=WIDE)
    found = rl.explain.bound(model, x, y, x[:20], 1 - y[:20], eps=0.1, margins=margins, gammas=(1.0,))
    assert list(found.sigma_min.values()) == pytest.approx([1.0] * 3)
    smallest = (logits[:, 0] - logits[:, 1]).abs().min().item()
    assert math.exp(found.log_u_min) == pytest.approx(smallest, rel=2e-3)
    assert found.training_examples == 60
    gap = (logits[:, 0] - logits[:, 1]).abs()
    np.testing.assert_allclose(found.ramp_train, (1 - gap).clamp(0, 1).mean(), rtol=1e-5)
    assert np.isnan(found.ramp_test).all()  # every label is wrong


def test_wrong_images_count_in_no_term():
    model, x = orthogonal_network(), torch.rand(60, 12)
    y = model(x).argmax(1)
    y[::3] = 1 - y[::3]
    right = torch.arange(60) % 3 != 0
    margins = rl.explain.instance_margins(model, x, y, bounds=WIDE)
    gammas = (0.1, 1.0)
    found = rl.explain.bound(model, x, y, x, y, margins=margins, gammas=gammas, training_examples=900)
    assert found.training_examples == 600
    assert found.v_min == pytest.approx(margins.upper[right.numpy()].min())
    gap = (model(x)[:, 0] - model(x)[:, 1]).abs().detach()[right]
    for place, gamma in enumerate(gammas):
        assert found.ramp_train[place] == pytest.approx((1 - gap / gamma).clamp(0, 1).mean().item(), rel=1e-5)
    np.testing.assert_array_equal(found.ramp_train, found.ramp_test)
    assert any(
        "wrong images count nowhere: v_min is over the 40 of 60" in text for text in found.favourable()
    )


def test_layers_are_those_of_the_network_in_eval_mode():
    """BatchNorm is folded into its layer; the normalisation of the images is a layer."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0)
    conv.weight.data = torch.tensor([[[[3.0]]], [[[4.0]]]])
    norm.weight.data = torch.tensor([2.0, 0.5])
    model = nn.Sequential(
        rl.models.Normalize([0.5], [0.1]), conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    x = torch.rand(20, 1, 4, 4)
    before = Snapshot(model)
    found = rl.explain.bound(model, x, torch.zeros(20).long(), x, torch.zeros(20).long(), eps=0.1)
    before.assert_unchanged()
    assert found.sigma_min == pytest.approx({"1": math.hypot(6, 2), "0": 10.0}, rel=1e-6)
    assert set(found.sigma_min) == {"0", "1"}


def test_a_singular_layer_says_so():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].weight.data[5] = model[0].weight.data[4]
    x = torch.rand(20, 6)
    found = rl.explain.bound(model, x, model(x).argmax(1), x, model(x).argmax(1), eps=0.1)
    assert found.sigma_min == {"0": 0.0}
    assert "sigma_min of 0" in found.vanishing()
    assert found.because()[-1][0] == "margin"
