"""Instance margins against exact distances; the bracket on small ReLU networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.known_networks import WIDE, orthogonal_network
from helpers.linear_models import linear_problem
from helpers.small_models import Snapshot, everything, images


def test_feature_and_instance_margins_agree_in_anorthogonal_network():
    model, x = orthogonal_network(), torch.rand(40, 12)
    logits = model(x).detach()
    y = logits.argmax(1)
    gap = (logits[:, 0] - logits[:, 1]).abs() / (model[-1].weight[0] - model[-1].weight[1]).norm().item()
    found = rl.explain.instance_margins(model, x, y, bounds=WIDE)
    np.testing.assert_allclose(found.upper, gap.numpy(), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.lower, gap.numpy(), rtol=1e-3, atol=1e-5)
    assert (found.lower <= found.upper).all()
    assert found.why == ""


def test_linear_models_of_many_classes_are_bracketed_by_their_exact_distances():
    problem = linear_problem(20, 7, dtype=torch.float32)
    free = problem.gaps()[0] / problem.gaps()[1].norm(dim=2)
    free = free.nan_to_num(torch.inf).scatter(1, problem.y[:, None], torch.inf).amin(1).numpy()
    found = rl.explain.instance_margins(problem.model, problem.x, problem.y)
    np.testing.assert_allclose(found.lower, free, rtol=1e-3, atol=1e-5)  # knows no box
    np.testing.assert_allclose(found.upper, problem.distances("L2").numpy(), rtol=1e-2, atol=1e-4)  # in it
    wide = rl.explain.instance_margins(problem.model, problem.x, problem.y, bounds=WIDE)
    np.testing.assert_allclose(wide.upper, free, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_no_certificate_is_above_what_an_attack_finds(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=1 + seed % 2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2) if seed < 2 else nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )
    x, _ = images(24)
    model(x)  # warms BatchNorm up
    model[-1].bias.data -= model.eval()(x).mean(0).detach()  # so that every class is somewhere
    y = model(x).argmax(1)
    found = rl.explain.instance_margins(model, x, y)
    assert found.correct.all()
    assert (found.lower > 0).all()
    assert (found.lower <= found.upper).all()
    assert found.lower.max() > 0.01 * found.upper.min()  # not a bound of nothing
    within = x + torch.from_numpy(found.lower).float().view(-1, 1, 1, 1) * 0.99 * _units(x)
    assert (model(within).argmax(1) == y).all()


def _units(x):
    direction = torch.randn_like(x)
    return direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_what_is_misclassified_has_no_margin_and_what_is_never_misclassified_has_no_upper_one():
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    model.bias.data = torch.tensor([0.5, 0.0])  # f_0 - f_1 = x_0 + 1/2: class 0 in the whole box
    x, y = torch.tensor([[0.25, 0.5], [0.25, 0.5]]), torch.tensor([0, 1])
    found = rl.explain.instance_margins(model, x, y)
    assert found.correct.tolist() == [True, False]
    assert found.upper.tolist() == [math.inf, 0.0]
    assert found.lower.tolist() == pytest.approx([0.75, 0.0], abs=1e-4)
    assert found.crossed.tolist() == [False, False]
    assert torch.equal(found.nearest, x)


def test_the_points_found_are_misclassified_and_as_far_as_said():
    model, (x, _) = everything().eval(), images(20)
    y = model(x).argmax(1)
    before = Snapshot(model)
    found = rl.explain.instance_margins(model, x, y, batch_size=7)
    before.assert_unchanged()
    assert found.lower is None
    assert "Everything" in found.why
    assert found.crossed.all()
    assert (model(found.nearest).argmax(1) != y).all()
    distance = (found.nearest.double() - x.double()).flatten(1).norm(dim=1)
    np.testing.assert_allclose(found.upper, distance.numpy())
    whole = rl.explain.instance_margins(model, x, y)
    np.testing.assert_allclose(whole.upper, found.upper, rtol=1e-3)
