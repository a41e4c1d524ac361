"""Landscapes and planes in weight space, against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import everything, images
from helpers.two_classes import data, linear, sides
from robustlens import noise
from robustlens.errors import ConfigError, DataError
from robustlens.explain import landscape, plane
from robustlens.explain.landscape import filter_normalised


def test_the_adversarial_landscape_of_a_linear_model_equals_its_formula():
    """For two classes the inner maximum is known: the margin falls by eps ||w_0 - w_1||_1, at every alpha."""
    torch.manual_seed(0)
    model = nn.Linear(10, 2).double()
    x, y = torch.rand(16, 10, dtype=torch.float64) * 0.2 + 0.4, torch.randint(0, 2, (16,))
    direction = filter_normalised(model, torch.Generator().manual_seed(1))
    found = rl.explain.landscape(
        model, x, y, rl.ThreatModel("Linf", 0.07), alphas=(-1, 0.5, 1), directions=[direction], batch_size=5
    )
    assert found["alpha"].tolist() == [-1.0, 0.0, 0.5, 1.0]
    sign = torch.where(y == 0, 1.0, -1.0).double()
    for row, alpha in enumerate(found["alpha"]):
        weight = model.weight.detach() + alpha * direction["weight"]
        gap = weight[0] - weight[1]
        bias = model.bias.detach()[0] - model.bias.detach()[1]
        margin = sign * (x @ gap + bias) - 0.07 * gap.abs().sum()
        np.testing.assert_allclose(found["loss"][row, 0], F.softplus(-margin).numpy(), rtol=1e-5)
        assert found["error"][row, 0].tolist() == (margin < 0).tolist()


def test_the_adversarial_plane_of_a_linear_model_equals_its_formula():
    model, (x, y) = linear(), data()
    found = plane(model, x, y, rl.ThreatModel("Linf", 0.07), alphas=(-1, 0.5), batch_size=5, seed=3)
    assert found["alpha"].tolist() == [-1.0, 0.0, 0.5]
    d, e = (filter_normalised(model, noise.generator_for(3, draw))["weight"] for draw in (0, 1))
    bias = model.bias.detach()[0] - model.bias.detach()[1]
    for row, a in enumerate(found["alpha"]):
        for column, b in enumerate(found["alpha"]):
            weight = model.weight.detach() + a * d + b * e
            gap = weight[0] - weight[1]
            margin = sides(y) * (x @ gap + bias) - 0.07 * gap.abs().sum()
            np.testing.assert_allclose(found["loss"][row, column], F.softplus(-margin).numpy(), rtol=1e-5)
            assert found["error"][row, column].tolist() == (margin < 0).tolist()


def test_the_plane_contains_the_lines():
    model, (x, y) = everything().eval(), images()
    options = {"alphas": (-0.5, 1.0), "steps": 2, "seed": 4}
    threat = rl.ThreatModel("Linf", 0.05)
    lines = landscape(model, x, y, threat, draws=2, **options)
    whole = plane(model, x, y, threat, **options)
    for kind in ("loss", "matched", "error"):
        np.testing.assert_array_equal(whole[kind][:, 1], lines[kind][:, 0])
        np.testing.assert_array_equal(whole[kind][1], lines[kind][:, 1])


def test_adversarial_images_are_made_anew_at_every_point():
    model, (x, y) = everything().eval(), images()
    weights_seen = []
    handle = model.fc.register_forward_pre_hook(
        lambda module, inputs: (
            weights_seen.append(module.weight.detach().clone()) if inputs[0].requires_grad else None
        )
    )
    rl.explain.landscape(model, x, y, rl.ThreatModel("Linf", 0.05), alphas=(-0.5, 0.5), steps=3)
    handle.remove()
    attacked_at = {tuple(w.flatten()[:4].tolist()) for w in weights_seen}
    assert len(attacked_at) == 3  # -0.5, 0 and 0.5


def test_the_temperature_matched_loss_does_not_change_with_the_scale_of_the_logits():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
            self.scale = scale

        def forward(self, x):
            return self.scale * self.body(x)

    x, y = torch.rand(60, 8, dtype=torch.float64), torch.randint(0, 3, (60,))
    y = Scaled(1.0)(x).argmax(1) * (torch.rand(60) < 0.8) + y * (torch.rand(60) > 0.8)
    y = y.clamp(0, 2)
    options = {"alphas": (0.5, 1.0), "seed": 3, "steps": 5}
    threat = rl.ThreatModel("Linf", 0.0)  # an attack on cross entropy itself depends on the scale
    plain, sharp = (rl.explain.landscape(Scaled(s), x, y, threat, **options) for s in (1.0, 5.0))
    assert abs(plain["loss"] - sharp["loss"]).mean() > 0.05
    np.testing.assert_allclose(plain["matched"], sharp["matched"], atol=1e-3)
    assert plain["temperature"][0] * 5 == pytest.approx(sharp["temperature"][0], rel=1e-3)


def test_every_point_is_an_event_with_its_place_among_all():
    model, (x, y), events = linear(), data(4), []
    given = {"alphas": (-0.5, 0.5), "steps": 1, "progress": events.append}
    landscape(model, x, y, rl.ThreatModel("Linf", 0.05), draws=2, **given)
    alphas = ["alpha -0.5", "alpha 0", "alpha 0.5"] * 2
    assert [(event.phase, event.done, event.total, event.note) for event in events] == [
        ("landscape", done, 6, alpha) for done, alpha in enumerate(alphas, 1)
    ]
    events.clear()
    plane(model, x, y, rl.ThreatModel("Linf", 0.05), **given)
    assert [(event.phase, event.done, event.total, event.note) for event in events] == [
        ("landscape", done, 9, "plane") for done in range(1, 10)
    ]


def test_wrong_arguments_are_refused():
    model, (x, y), threat = linear(), data(), rl.ThreatModel("Linf", 0.1)
    for function in (landscape, plane):
        with pytest.raises(DataError, match="0 images"):
            function(model, x[:0], y[:0], threat)
    with pytest.raises(ConfigError, match="0 draws"):
        landscape(model, x, y, threat, draws=0)
