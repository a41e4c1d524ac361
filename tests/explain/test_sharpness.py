"""Sharpness of the loss at images: against the Hessian itself, and on networks whose geometry is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn
from torch.nn.utils import prune

import robustlens as rl
from robustlens.data import from_tensors
from robustlens.errors import ConfigError, ModelError
from robustlens.explain import Subject, get
from robustlens.explain.sharpness import relative_sharpness

THREAT = rl.ThreatModel("Linf", 0.1)


class Times(nn.Module):
    """A temperature, or the scale of logits."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def test_it_is_the_trace_of_the_relative_hessian_of_the_last_layer():
    """Petzka et al. 2021, definition 3: sum over rows s, t of <w_s, w_t> tr H_st, H by autograd."""
    torch.manual_seed(0)
    features, weight = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    found = relative_sharpness(features, weight, features @ weight.T)
    for phi, kappa in zip(features, found, strict=True):

        def loss(w, phi=phi):
            return F.cross_entropy((w @ phi)[None], torch.tensor([1]))

        hessian = torch.autograd.functional.hessian(loss, weight)  # (3, 5, 3, 5)
        expected = torch.einsum("sitj,ij,sa,ta->", hessian, torch.eye(5, dtype=torch.float64), weight, weight)
        assert kappa.item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_sure_network_is_flat_and_nothing_cancels():
    # p = (1, e^-60): kappa = |phi|^2 p_0 p_1 |w_0 - w_1|^2 = 1 * e^-60 * 3600.
    kappa = relative_sharpness(
        torch.tensor([[1.0]]), torch.tensor([[60.0], [0.0]]), torch.tensor([[60.0, 0.0]])
    )
    assert kappa.item() == pytest.approx(3600 * math.exp(-60), rel=1e-9)


def threshold(slope):
    """Class 1 where the one pixel is above 1/2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    model[1].weight.data = torch.tensor([[0.0], [slope]])
    model[1].bias.data = torch.tensor([0.0, -slope / 2])
    return model


def test_each_radius_is_attacked_and_its_images_are_those_of_a_line():
    # Pixels 0.45 (class 0) and 0.8 (class 1); the attack moves them across, and by 0.1 or 0.2 at most.
    x, y = torch.tensor([0.45, 0.8]).reshape(2, 1, 1, 1), torch.tensor([0, 1])
    found = rl.explain.sharpness(threshold(20.0), x, y, THREAT, factors=(2.0, 1.0), steps=20)
    assert found["radius"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert found["wrong"].tolist() == [[False, False], [True, False], [True, False]]
    for row, places in enumerate([(0.45, 0.8), (0.55, 0.7), (0.65, 0.6)]):
        for column, place in enumerate(places):
            p = 1 / (1 + math.exp(-20 * (place - 0.5)))
            assert found["sharpness"][row, column] == pytest.approx(place**2 * p * (1 - p) * 400, rel=1e-3)
            assert found["confidence"][row, column] == pytest.approx(max(p, 1 - p), rel=1e-4)
            right = (p, 1 - p)[column == 0]
            assert found["loss"][row, column] == pytest.approx(-math.log(right), rel=1e-3)


def test_numbers_are_medians_over_broken_images():
    pixels = torch.tensor([115, 120, 204], dtype=torch.uint8).reshape(3, 1, 1, 1)
    splits = from_tensors(pixels, torch.tensor([0, 0, 1]), pixels, torch.tensor([0, 0, 1]), validation=0.0)
    subject = Subject(threshold(20.0).eval(), splits.train, splits.test, THREAT)
    value = get("sharpness", factors=[1.0], steps=20)(subject).value
    assert value["0.1"]["broken"] == pytest.approx(2 / 3)
    clean = [1 / (1 + math.exp(20 * (pixel / 255 - 0.5))) for pixel in (115, 120)]
    assert value["0.1"]["clean_confidence"] == pytest.approx(sum(clean) / 2, rel=1e-4)
    assert value["0.1"]["confidence"] > value["0.1"]["clean_confidence"]
    none = get("sharpness", factors=[0.0])(subject).value
    assert list(none) == ["clean", "split", "steps", "eps"]


def test_networks_and_factors_that_have_no_sharpness_are_refused():
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    pooled = nn.Sequential(nn.Flatten(2), nn.Linear(16, 2), nn.Flatten())
    tokens = nn.Sequential(nn.Flatten(1, 2), nn.Linear(4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    convolution = nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten())
    with pytest.raises(ModelError, match="expected the layer to give the logits"):
        rl.explain.sharpness(tokens, x, y, THREAT, steps=1)
    with pytest.raises(ModelError, match="expected a Linear layer"):
        rl.explain.sharpness(convolution, x, y, THREAT, steps=1)
    with pytest.raises(ModelError, match="expected the layer to give the logits"):
        rl.explain.sharpness(pooled, x, y, THREAT, steps=1)
    with pytest.raises(ConfigError, match=r"sharpness.factors: found \[-1.0\]"):
        rl.explain.sharpness(threshold(1.0), x[:, :, :1, :1], y, THREAT, factors=[-1.0])


class Cosine(nn.Linear):
    """A classifier by angles: its logits are no linear function of what it reads."""

    def forward(self, features):
        return 10 * F.linear(F.normalize(features), F.normalize(self.weight))


@pytest.mark.parametrize(
    "behind", [Times(5.0), Times(0.2), "norm", "cosine"], ids=["x 5", "/ 5", "norm", "cosine"]
)
def test_logits_that_the_last_layer_does_not_give_are_refused(behind):
    torch.manual_seed(0)
    x, y = torch.rand(20, 1, 4, 4), torch.arange(20) % 3
    head = Cosine(8, 3) if behind == "cosine" else nn.Linear(8, 3)
    norm = nn.BatchNorm1d(3)
    norm.running_var.fill_(4.0)
    more = {"norm": [norm], "cosine": []}.get(behind if isinstance(behind, str) else "", [behind])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), head, *more)
    with pytest.raises(ModelError, match="found logits that are not what the last linear layer gives"):
        rl.explain.sharpness(model, x, y, THREAT, steps=1)


@pytest.mark.parametrize(
    "changed",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.orthogonal,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight norm", "spectral norm", "orthogonal", "pruned"],
)
def test_the_weight_of_the_last_layer_may_be_computed(changed):
    torch.manual_seed(0)
    x, y = torch.rand(20, 1, 4, 4), torch.arange(20) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), changed(nn.Linear(8, 3))).eval()
    plain = nn.Sequential(*model[:3], nn.Linear(8, 3))
    plain[3].weight.data, plain[3].bias.data = (
        model[3].weight.detach().clone(),
        model[3].bias.detach().clone(),
    )
    names = [rl.explain.sharpness(each, x, y, THREAT, steps=1)["sharpness"][0] for each in (model, plain)]
    np.testing.assert_allclose(*names, rtol=1e-6)


def test_double_precision_and_a_threat_of_radius_zero():
    x, y = torch.tensor([0.45, 0.8]).double().reshape(2, 1, 1, 1), torch.tensor([0, 1])
    found = rl.explain.sharpness(threshold(20.0).double(), x, y, rl.ThreatModel("L2", 0.0))
    assert found["radius"].tolist() == [0.0]
    assert found["sharpness"].shape == (1, 2)
    assert np.isfinite(found["sharpness"]).all()
