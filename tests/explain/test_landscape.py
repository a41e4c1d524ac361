"""Planes, input landscapes, and the fast path, against closed forms and a plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens import noise
from robustlens.errors import ConfigError
from robustlens.explain import input_landscape, landscape, plane
from robustlens.explain.landscape import across, filter_normalised, measure_landscape


def linear():
    torch.manual_seed(0)
    return nn.Linear(10, 2).double()


def data(n=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 10, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    return x, torch.randint(0, 2, (n,), generator=generator)


def sides(y):
    return torch.where(y == 0, 1.0, -1.0).double()


# -- weights -------------------------------------------------------------------------------------------


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
    found = list(across(model, directions, alphas, quadratic))
    before.assert_unchanged()
    moved = [w + a * d + b * e for a in alphas for b in alphas]
    np.testing.assert_allclose(
        found, [float(0.5 * v @ hessian @ v + gradient @ v) for v in moved], rtol=1e-10
    )


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


def plain_loop(model, x, y, threat, alphas, steps):
    """One point at a time, as scripts write it; the most harmful iterate counts, as in `PGD`."""
    direction = filter_normalised(model, noise.generator_for(0, 0))
    saved = {name: model.get_parameter(name).detach().clone() for name in direction}
    start, points = threat.start_from(noise.fold(noise.keys(x, 0), 0), x), []
    for alpha in alphas:
        with torch.no_grad():
            for name, d in direction.items():
                model.get_parameter(name).copy_(saved[name] + alpha * d)
            clean = model(x)
        best, won, x_adv = F.cross_entropy(clean, y, reduction="none"), clean.argmax(1) != y, start
        for step in range(steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = model(x_adv)
            loss, wrong = F.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y
            better = torch.where(won == wrong, loss > best, wrong)
            best, won = torch.where(better, loss.detach(), best), won | wrong
            if step < steps:
                (slope,) = torch.autograd.grad(loss.sum(), x_adv)
                x_adv = x_adv.detach() + threat.default_step_size * slope.sign()
                x_adv = torch.min(torch.max(x_adv, x - threat.eps), x + threat.eps).clamp(0, 1)
        points.append(best.detach().numpy())
    return np.stack(points)


def test_the_fast_path_equals_a_plain_loop():
    """A network with BatchNorm to fold, in the float64 in which no sign of a gradient is a matter of rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).double()
    x, y = images(20, torch.float64)
    with torch.no_grad():
        model(x)  # statistics of its own
    model.eval()
    threat = rl.ThreatModel("Linf", 0.06)
    found = landscape(model, x, y, threat, alphas=(-0.5, 1.0), steps=4, batch_size=8)
    wanted = plain_loop(model, x, y, threat, (-0.5, 0.0, 1.0), 4)
    np.testing.assert_allclose(found["loss"][:, 0], wanted, atol=1e-5)


# -- inputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("towards", ["gradient", "attack"])
def test_the_input_landscape_of_a_linear_model_equals_its_formula(towards):
    """The margin falls by a eps ||gap||_1 along the gradient; PGD goes the same way to the ball's corner."""
    model, (x, y) = linear(), data()
    threat = rl.ThreatModel("Linf", 0.07)
    found = input_landscape(model, x, y, threat, radii=(-1, 0, 2), towards=towards, batch_size=5)
    gap = (model.weight[0] - model.weight[1]).detach()
    random = 0.07 * noise.normal(noise.keys(x, 0), x).sign()
    for row, a in enumerate((-1, 0, 2)):
        for column, b in enumerate((-1, 0, 2)):
            bias = (model.bias[0] - model.bias[1]).detach()
            margin = sides(y) * ((x + b * random) @ gap + bias) - a * 0.07 * gap.abs().sum()
            np.testing.assert_allclose(found["loss"][row, column], F.softplus(-margin).numpy(), rtol=1e-5)
            assert found["error"][row, column].tolist() == (margin < 0).tolist()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_both_directions_of_the_input_landscape_are_eps_long(norm):
    class Recording(nn.Linear):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    seen: list[torch.Tensor] = []
    torch.manual_seed(0)
    model, (x, y) = Recording(10, 2).double(), data()
    threat = rl.ThreatModel(norm, 0.3)
    input_landscape(model, x, y, threat, radii=(0, 1))
    origin, random, adversarial, _ = seen[-4:]
    assert torch.equal(origin, x)
    for moved in (random, adversarial):
        np.testing.assert_allclose(threat.distance(moved, x).numpy(), 0.3, rtol=1e-6)
    assert not torch.equal(random, adversarial)


# -- the measure ---------------------------------------------------------------------------------------


def test_the_measure_keeps_means_of_the_plane_and_of_the_inputs():
    (x, y), (x_test, y_test) = images(20), images(12)
    splits = rl.data.from_tensors(
        (x * 255).round().to(torch.uint8),
        y,
        (x_test * 255).round().to(torch.uint8),
        y_test,
        classes=tuple("abcde"),
    )
    threat = rl.ThreatModel("Linf", 0.05)
    subject = rl.explain.Subject(everything().eval(), splits.train, splits.test, threat)
    options = {"alphas": (-1, 1), "steps": 2, "splits": ("test",)}
    without = measure_landscape(subject, **options)
    found = measure_landscape(subject, plane=3, plane_examples=6, input=True, **options)
    for name, array in without.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert found.value == without.value
    assert found.arrays["plane_alpha"].tolist() == [-1, 0, 1]
    assert found.arrays["test_plane_error"].shape == (3, 3)
    assert found.arrays["test_plane_loss"][:, 1] == pytest.approx(
        found.arrays["test_loss"][:, 0, :6].mean(1, dtype=np.float64)
    )
    middle = len(found.arrays["input_radius"]) // 2
    loss = F.cross_entropy(everything().eval()(subject.images("test")[0]), y_test).item()
    assert found.arrays["test_input_loss"][middle, middle] == pytest.approx(loss, rel=1e-5)


def test_wrong_arguments_are_refused():
    model, (x, y) = linear(), data()
    threat = rl.ThreatModel("Linf", 0.1)
    for function in (landscape, plane, input_landscape):
        with pytest.raises(ConfigError, match="0 images"):
            function(model, x[:0], y[:0], threat)
    with pytest.raises(ConfigError, match="towards 'there'"):
        input_landscape(model, x, y, threat, towards="there")
    with pytest.raises(ConfigError, match="radius"):
        input_landscape(model, x, y, rl.ThreatModel("Linf", float("inf")))
