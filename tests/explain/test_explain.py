"""Margins, smoothness and landscapes against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.errors import ConfigError
from robustlens.explain.landscape import along, filter_normalised, rises
from robustlens.explain.margins import margins_of, summarize


def test_margins_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    found = margins_of(logits, torch.tensor([0, 2]))
    p = logits.softmax(1).numpy()
    np.testing.assert_allclose(found["logit"], [1.0, -2.0])
    np.testing.assert_allclose(found["probability"], [p[0, 0] - p[0, 1], p[1, 2] - p[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(found["confidence"], [p[0, 0], p[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [-np.log(p[0, 0]), -np.log(p[1, 2])], rtol=1e-6)
    assert found["correct"].tolist() == [True, False]


def test_indecisive_errors_by_hand():
    # Probability margins: right by .5; wrong by .05, by .15, by .8.
    found = {
        "logit": np.array([1.0, -0.1, -0.3, -2.0]),
        "probability": np.array([0.5, -0.05, -0.15, -0.8]),
        "confidence": np.array([0.7, 0.5, 0.5, 0.9]),
        "correct": np.array([True, False, False, False]),
        "loss": np.array([0.5, 1.0, 1.5, 3.0]),
    }
    value = summarize(found)
    assert value["indecisive_errors"] == {"0.1": 0.25, "0.2": 0.5, "0.3": 0.5}
    assert value["indecisive_share"] == pytest.approx({"0.1": 1 / 3, "0.2": 2 / 3, "0.3": 2 / 3})
    assert value["within"] == {"0.1": 0.25, "0.2": 0.5, "0.3": 0.5}
    assert value["error"] == 0.75
    assert value["confidence"] == pytest.approx(0.65)
    assert value["loss"] == pytest.approx(1.5)
    assert value["ramp_risk"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert value["std_logit"] == pytest.approx(np.std([1.0, -0.1, -0.3, -2.0]))
    # Quartiles of -2, -0.3, -0.1, 1: a quarter of the way from -2 back to -0.3 is left out, and so on.
    assert value["iqr_logit"] == pytest.approx((-0.1 + 0.25 * 1.1) - (-0.3 - 0.25 * 1.7))


def test_margin_change_of_a_linear_model_is_the_dual_norm():
    torch.manual_seed(0)
    model = nn.Linear(20, 2).double()
    x, y = torch.rand(30, 20, dtype=torch.float64) * 0.2 + 0.4, torch.randint(0, 2, (30,))
    gap = (model.weight[0] - model.weight[1]).detach()
    found = rl.explain.smoothness(model, x, y, rl.ThreatModel("Linf", 0.05))
    np.testing.assert_allclose(found["margin_change"], (0.05 * gap.abs().sum()).expand(30).numpy(), rtol=1e-6)


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
    found = list(along(model, direction, alphas, quadratic))
    before.assert_unchanged()
    slope, curvature = (gradient + hessian @ w) @ d, d @ hessian @ d
    expected = [quadratic() + float(alpha * slope + 0.5 * alpha**2 * curvature) for alpha in alphas]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


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
        next(along(model, direction, [0.5], fail))
    before.assert_unchanged()


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


def test_rises_by_hand():
    alpha = np.array([-0.5, 0.0, 0.5, 1.0])
    values = np.array([2.0, 1.0, 4.0, 9.0])[:, None, None] * np.ones((4, 2, 3))
    assert rises(alpha, values) == {"0.5": 2.0, "1": 8.0}


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="0 draws"):
        rl.explain.landscape(
            nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), rl.ThreatModel("L2", 1), draws=0
        )
    with pytest.raises(ConfigError, match="expected one of spectrum"):
        rl.explain.get("specturm")
