"""The adaptive minimum-norm search against known distances, and side by side with the plain search."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from helpers.searched_networks import Counted, trained_network
from robustlens import losses
from robustlens.attacks import AdaptiveMinimumNorm, MinimumNorm
from robustlens.attacks.base import Goal
from robustlens.attacks.walks import TOLERANCE, Images, bisect, regula_falsi

norms = pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
ENDLESS = rl.ThreatModel("Linf", math.inf)


@norms
@pytest.mark.parametrize("steps", [5, 23])
def test_it_is_exact_on_linear_models(norm, steps):
    problem = linear_problem(30, 5, n=60, seed=2)
    exact = problem.distances(norm)
    attack = AdaptiveMinimumNorm(rl.ThreatModel(norm, math.inf), steps=steps)
    found, x_adv = (
        attack.distance(problem.model, problem.x, problem.y),
        attack(problem.model, problem.x, problem.y),
    )
    assert (found >= exact * (1 - 1e-6)).all()
    assert (found <= 1.01 * exact).all()
    torch.testing.assert_close(attack.threat.distance(x_adv, problem.x), found)
    assert losses.is_wrong(problem.model(x_adv), problem.y).all()


def test_it_is_as_near_as_the_plain_search_for_a_third_of_the_gradients():
    model, x, y = trained_network()
    plain, adaptive = Counted(model), Counted(model)
    before, found = (
        MinimumNorm(ENDLESS).distance(plain, x, y),
        AdaptiveMinimumNorm(ENDLESS).distance(adaptive, x, y),
    )
    right = before > 0
    ratio = (found / before)[right]
    assert torch.equal(found > 0, right)
    assert adaptive.tracked - len(x) <= (plain.tracked - len(x)) * 0.45
    assert adaptive.judged < plain.judged
    assert ratio.median() <= 1.002
    assert (ratio <= 1.02).float().mean() >= 0.9


def test_images_beyond_the_radius_leave_and_those_within_are_still_found():
    model, x, y = trained_network()
    everywhere = AdaptiveMinimumNorm(ENDLESS).distance(model, x, y)
    right = everywhere > 0
    eps = float(everywhere[right].quantile(0.3))
    threat = rl.ThreatModel("Linf", eps)
    counted, endless = Counted(model), Counted(model)
    found = AdaptiveMinimumNorm(threat).distance(counted, x, y)
    AdaptiveMinimumNorm(ENDLESS).distance(endless, x, y)
    assert counted.tracked < 0.85 * endless.tracked
    within = everywhere <= eps
    torch.testing.assert_close(found[within], everywhere[within], rtol=1e-9, atol=0)
    assert found[everywhere > eps].isinf().all()


def test_every_point_returned_has_been_judged_there():
    model, x, y = trained_network()
    counted = Counted(model)
    x_adv = AdaptiveMinimumNorm(ENDLESS)(counted, x, y)
    seen = torch.cat(counted.batches)
    found = (x_adv != x).any(1)
    assert found.sum() > 20
    for point, label in zip(x_adv[found], y[found], strict=True):
        assert (seen == point).all(1).any()
        assert model(point[None]).argmax(1) != label


def test_the_search_of_an_image_does_not_depend_on_its_batch():
    model, x, y = trained_network()
    attack = AdaptiveMinimumNorm(rl.ThreatModel("Linf", 0.1), restarts=2)
    whole = attack(model, x, y)
    parts = torch.cat([attack(model, *pair) for pair in zip(x.split(15), y.split(15), strict=True)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


def test_stopping_early_breaks_the_same_images_with_less_work():
    model, x, y = trained_network()
    distance = AdaptiveMinimumNorm(ENDLESS).distance(model, x, y)
    threat = rl.ThreatModel("Linf", float(distance[distance > 0].median()) * 1.05)
    stopping, going_on = Counted(model), Counted(model)
    stopped = AdaptiveMinimumNorm(threat, stop_at_success=True)(stopping, x, y)
    nearest = AdaptiveMinimumNorm(threat)(going_on, x, y)
    assert torch.equal(losses.is_wrong(model(stopped), y), losses.is_wrong(model(nearest), y))
    assert stopping.tracked < going_on.tracked


@pytest.mark.parametrize("eps", [0.0, 0.3, math.inf])
def test_any_radius_no_images_and_what_is_wrong_already(eps):
    model, x, y = trained_network(steps=30)
    attack = AdaptiveMinimumNorm(rl.ThreatModel("Linf", eps))
    assert attack(model, x[:0], y[:0]).shape == (0, 10)
    found, wrong = attack.distance(model, x, y), losses.is_wrong(model(x), y)
    assert torch.equal(found == 0, wrong)
    if eps == 0:
        assert (found[~wrong] == torch.inf).all()


def test_a_model_that_is_flat_or_says_nan_is_searched_all_the_same():
    class Odd(nn.Module):
        """Flat near the images, then rising, then NaN."""

        def forward(self, x):
            rise = ((x - 0.5).abs() - 0.1).relu().sum(1) - 0.3
            logits = torch.stack([-rise, rise], 1)
            return torch.where(rise[:, None] > 0.4, torch.nan, logits)

    x, y = torch.full((5, 6), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    found, x_adv = (
        AdaptiveMinimumNorm(ENDLESS).distance(Odd(), x, y),
        AdaptiveMinimumNorm(ENDLESS)(Odd(), x, y),
    )
    assert torch.isfinite(x_adv).all()
    assert (found >= 0.15 * (1 - 1e-6)).all()
    assert (found <= 0.45).all()


def boundary(far, curve):
    """A model wrong from the share `curve` says of the way to `far` on, and its images."""

    class Along(nn.Module):
        def forward(self, x):
            return torch.stack([torch.zeros(len(x), dtype=x.dtype), curve(x.sum(1))], 1)

    x, model = torch.zeros(len(far), 1, dtype=torch.float64), Along()
    goal = Goal.of(model, x, torch.zeros(len(far), dtype=torch.int64), "margin", targeted=False)
    return model, Images.of(x, goal, model(x).detach())


@pytest.mark.parametrize(
    "curve",
    [
        lambda s: s - 0.995,
        lambda s: (s - 0.995) ** 3,
        lambda s: (s - 0.4).sign() + 1e-3 * (s - 0.4),
        lambda s: torch.where(s > 0.7, torch.nan, -1.0),
        lambda s: torch.where(s > 0.9985, torch.inf, s - 1),
    ],
    ids=["straight", "cubic", "step", "nan", "infinite"],
)
def test_secants_end_as_near_the_boundary_as_bisection(curve):
    far = torch.ones(3, 1, dtype=torch.float64)
    model, images = boundary(far, curve)
    slow, fast = bisect(model, images, far), regula_falsi(model, images, far)
    wrong = images.goal.won(model(fast)) & ~(images.goal.value(model(fast)) < images.rounding)
    assert wrong.all()
    assert ((fast - slow).abs() <= 1.01 * TOLERANCE * slow).all()


def test_secants_take_half_the_forward_passes():
    far = torch.ones(8, 1, dtype=torch.float64)
    model, images = boundary(far, lambda s: s - 0.995)
    halves, secants = Counted(model), Counted(model)
    bisect(halves, images, far)
    regula_falsi(secants, images, far)
    assert secants.judged <= 0.6 * halves.judged


def test_it_is_known_by_name():
    threat = rl.ThreatModel("Linf", 0.5)
    assert rl.attacks.get("min-norm-adaptive", threat, seed=4) == AdaptiveMinimumNorm(threat, seed=4)
    assert rl.attacks.get("min-norm-adaptive-30", threat).steps == 30
