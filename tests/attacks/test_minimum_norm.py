"""The minimum-norm attack against boundaries whose distance is known, and against a long search where it is not."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from helpers.searched_networks import Counted, trained_network
from robustlens import losses
from robustlens.attacks import MinimumNorm, walks
from robustlens.attacks.base import Goal
from robustlens.errors import ConfigError, ModelError

norms = pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])


def endless(norm, bounds=(0.0, 1.0)):
    return rl.ThreatModel(norm, math.inf, bounds)


class Sphere(nn.Module):
    """Class 1 outside a ball around `centre`, whose exact distance everybody knows."""

    def __init__(self, centre, radius):
        super().__init__()
        self.centre, self.radius = centre, radius

    def forward(self, x):
        outside = (x - self.centre).square().flatten(1).sum(1) - self.radius**2
        return torch.stack([-outside, outside], 1)


@norms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("classes", "dim", "n"), [(2, 20, 60), (2, 3000, 4), (10, 20, 60), (10, 300, 20), (10, 3000, 3)]
)
def test_linear_models_exactly_pixel_box_included(norm, dtype, classes, dim, n):
    for seed in range(1 if dim > 20 else 2):
        problem = linear_problem(dim, classes, n=n, seed=seed, dtype=dtype)
        found = MinimumNorm(endless(norm), steps=16).distance(problem.model, problem.x, problem.y).double()
        exact = problem.distances(norm)
        lower = exact if dtype == torch.float64 else problem.distances(norm, slack=1.0)
        reachable = exact.isfinite()
        assert reachable.any()
        assert torch.equal(found.isfinite(), reachable)
        assert (found <= 1.02 * exact)[reachable].all()
        assert (found >= lower * (1 - 1e-6))[reachable].all()


@norms
def test_linear_models_with_other_bounds_and_boundaries_out_of_reach(norm):
    bounds = (-1.0, 3.0)
    problem = linear_problem(15, 3, n=30, seed=4, bounds=bounds)
    attack = MinimumNorm(endless(norm, bounds), steps=40)
    weak = problem.y != 2
    with torch.no_grad():
        problem.model.bias[2] -= 200  # a class that wins nowhere in the box
    problem = replace(problem, x=problem.x[weak], y=problem.y[weak])
    assert problem.class_distances(norm)[:, 2].isinf().all()
    found, exact = attack.distance(problem.model, problem.x, problem.y), problem.distances(norm)
    assert (found <= 1.02 * exact).all()
    assert (found >= exact * (1 - 1e-6)).all()
    with torch.no_grad():
        problem.model.bias[0] += 200  # a class that wins everywhere
    y = torch.zeros_like(problem.y)
    assert attack.distance(problem.model, problem.x, y).isinf().all()
    assert torch.equal(attack(problem.model, problem.x, y), problem.x)


def images_at(x, logits):
    y = torch.zeros(len(x), dtype=torch.int64)
    return walks.Images.of(x, Goal(losses.get("margin"), y, y), logits)


def test_the_rounding_of_a_margin_is_that_of_the_largest_finite_logit():
    logits = torch.tensor([[1.0, -4.0, 2.0], [torch.inf, 3.0, torch.nan], [torch.nan, -torch.inf, torch.nan]])
    unit = 2.0**-23
    assert images_at(torch.zeros(3, 1), logits).rounding.tolist() == [64 * unit, 48 * unit, 0.0]
    assert images_at(torch.zeros(3, 1), logits.bfloat16()).rounding.tolist() == [64 * unit, 48 * unit, 0.0]
    assert images_at(torch.zeros(1, 1).double(), logits[:1].double()).rounding.tolist() == [64 * 2.0**-52]


def test_points_on_a_boundary_a_hair_beyond_it_and_only_where_the_box_allows():
    """A slope of (1, 1) from the middle of the box: 1 is as far as the sum can rise."""
    x, slope = torch.full((4, 2), 0.5, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    gap = torch.tensor([0.2, 1.05, 1.2, torch.nan], dtype=torch.float64)
    images = images_at(x, torch.zeros(4, 3))
    exact = {"Linf": [0.1001, 0.5], "L2": [0.1001 * 2**0.5, 0.5**0.5], "L1": [0.2002, 1.0]}
    for norm, (near, corner) in exact.items():
        point, distance = walks.nearest_on_boundary(endless(norm), images, gap, slope)
        expected = torch.tensor([near, corner, torch.inf, 0.0], dtype=torch.float64)
        torch.testing.assert_close(distance, expected)
        torch.testing.assert_close((point - x).sum(1), torch.tensor([0.2002, 1.0, 1.0, 0.0]).double())
    images.rounding += 0.1  # closed as well
    _, distance = walks.nearest_on_boundary(endless("L1"), images, gap, slope)
    torch.testing.assert_close(distance[0], torch.tensor(0.3 * 1.001).double())


@norms
def test_it_searches_up_to_eps_and_no_further(norm):
    problem = linear_problem(30, 5, n=60, seed=2)
    exact = problem.distances(norm)
    eps = float(exact.median())
    attack = MinimumNorm(rl.ThreatModel(norm, eps), steps=30)
    found, x_adv = (
        attack.distance(problem.model, problem.x, problem.y),
        attack(problem.model, problem.x, problem.y),
    )
    wrong = losses.is_wrong(problem.model(x_adv), problem.y)
    assert torch.equal(wrong, found.isfinite())
    assert not wrong[exact > eps].any()
    assert wrong[exact < 0.999 * eps].all()
    assert attack.threat.distance(x_adv, problem.x).max() <= eps * (1 + 1e-9)
    torch.testing.assert_close(attack.threat.distance(x_adv, problem.x)[wrong], found[wrong])
    assert torch.equal(x_adv[~wrong], problem.x[~wrong])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sphere_from_inside_and_from_outside(dtype):
    """From inside: Linf r with sum (|d_i| + r)^2 = R^2, L2 R - |d|, L1 along the longest coordinate."""
    torch.manual_seed(1)
    dim, radius = 8, 0.35
    centre = torch.full((dim,), 0.5, dtype=dtype)
    direction = nn.functional.normalize(torch.randn(50, dim, dtype=dtype))
    d = direction * torch.linspace(0.05, 0.33, 50, dtype=dtype)[:, None]
    size = d.norm(dim=1)
    s, longest = d.abs().sum(1), d.abs().amax(1)
    exact = {
        "L2": radius - size,
        "Linf": (-2 * s + (4 * s.square() + 4 * dim * (radius**2 - size.square())).sqrt()) / (2 * dim),
        "L1": (radius**2 - size.square() + longest.square()).sqrt() - longest,
    }
    y = torch.zeros(50, dtype=torch.int64)
    for norm, expected in exact.items():
        found = MinimumNorm(endless(norm)).distance(Sphere(centre, radius), centre + d, y)
        assert (found >= expected * (1 - 1e-5)).all(), norm
        assert (found / expected).median() <= 1.001, norm
        # Near the centre every coordinate is a boundary of its own in L1, and the nearest may be missed.
        assert (found <= 1.02 * expected).float().mean() >= (0.75 if norm == "L1" else 1), norm
        assert (found <= 2.2 * expected).all(), norm
    outside = centre + direction * torch.linspace(0.36, 0.45, 50, dtype=dtype)[:, None]
    found = MinimumNorm(endless("L2")).distance(Sphere(centre, radius), outside, y + 1)
    torch.testing.assert_close(found, (outside - centre).norm(dim=1) - radius, rtol=2e-3, atol=1e-6)


@norms
def test_a_trained_network_is_searched_better_than_by_long_pgd(norm):
    model, x, y = trained_network()
    attack = MinimumNorm(endless(norm))
    found, x_adv = attack.distance(model, x, y), attack(model, x, y)
    assert torch.equal(found == 0, losses.is_wrong(model(x), y))
    assert losses.is_wrong(model(x_adv), y).all()
    torch.testing.assert_close(attack.threat.distance(x_adv, x), found)
    broken = torch.full_like(found, torch.inf)
    for eps in torch.logspace(math.log10(0.1), math.log10(2), 6).tolist():  # shares of the median distance
        threat = rl.ThreatModel(norm, eps * float(found.median()))
        wrong = losses.is_wrong(model(rl.attacks.PGD(threat, steps=25, loss="margin")(model, x, y)), y)
        broken = torch.where(wrong & broken.isinf(), threat.eps, broken)
    assert broken.isfinite().sum() >= 15
    assert (found <= 1.01 * broken).float().mean() >= 0.97


def test_more_steps_find_nearer_points():
    model, x, y = trained_network()
    means = []
    for steps in (8, 25, 100):
        found = MinimumNorm(endless("L2"), steps=steps).distance(model, x, y)
        means.append(found[found > 0].log().mean())
    assert means[0] > means[1] + 1e-3
    assert means[1] > means[2]


def test_walks_from_several_boundaries_find_nearer_points_than_one():
    model, x, y = trained_network()
    several = MinimumNorm(endless("Linf"), steps=56).distance(model, x, y)
    one = MinimumNorm(endless("Linf"), steps=7).distance(model, x, y)  # too few steps for a second walk
    assert (several <= one * 1.01).float().mean() > 0.95
    assert (several < one * 0.99).float().mean() > 0.2


@norms
def test_the_nearest_class_is_found_where_seven_others_look_nearer(norm):
    """Boundaries at 0.5 along seven coordinates; along an eighth at 0.2, where the slope at x promises 0.6."""

    class Bent(nn.Module):
        def forward(self, x):
            bent = 10 * x[:, 7].square() + x[:, 7] - 0.6
            return torch.stack([0 * bent, *(x[:, :7] - 0.5).unbind(1), bent], 1)

    x, y = torch.zeros(2, 8, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    found = MinimumNorm(endless(norm)).distance(Bent(), x, y)
    torch.testing.assert_close(found, torch.full((2,), 0.2).double(), rtol=1e-3, atol=0)


def test_steps_are_spent_stage_by_stage():
    attack = MinimumNorm(endless("L2"))
    assert [attack._walks(boundaries) for boundaries in (1, 7, 8, 9)] == [4, 4, 8, 8]
    assert [MinimumNorm(endless("L2"), steps=steps)._walks(9) for steps in (15, 16)] == [4, 8]
    assert [MinimumNorm(endless("L2"), walks=4)._walks(count) for count in (1, 9)] == [4, 4]
    assert attack._plan(8) == ((8, 6), (4, 6), (2, 12), (1, 4))
    assert attack._plan(4) == ((4, 12), (2, 12), (1, 28))
    assert MinimumNorm(endless("L2"), steps=7)._plan(4) == ((1, 7),)


@norms
def test_every_point_returned_has_been_judged_there(norm):
    model, x, y = trained_network()
    counted = Counted(model)
    x_adv = MinimumNorm(endless(norm), steps=20)(counted, x, y)
    seen = torch.cat(counted.batches)
    found = (x_adv != x).any(1)
    assert found.sum() > 20
    for point, label in zip(x_adv[found], y[found], strict=True):
        passes = (seen == point).all(1)
        assert passes.any()
        assert model(point[None]).argmax(1) != label


@pytest.mark.parametrize("steps", [5, 30])
def test_a_step_is_one_pass_and_nothing_is_spent_on_what_is_wrong_already(steps):
    model, x, y = trained_network(steps=30)
    wrong = losses.is_wrong(model(x), y)
    assert 0 < wrong.sum() < len(x)
    counted = Counted(model)
    attack = MinimumNorm(endless("L2"), steps=steps)
    x_adv = attack(counted, x, y)
    assert torch.equal(x_adv[wrong], x[wrong])
    assert counted.tracked == len(x) + steps * int((~wrong).sum())  # once at x
    assert counted.judged <= 15 * int((~wrong).sum())
    assert torch.equal(attack.distance(model, x, y) == 0, wrong)


def test_bisection_is_as_fine_as_it_says():
    """A step function: wrong from 0.3 on, and no gradient that would tell how far that is."""

    class Step(nn.Module):
        def forward(self, x):
            beyond = x[:, 0] - 0.3
            return torch.stack([torch.zeros_like(beyond), beyond.sign() + 1e-3 * beyond], 1)

    x = torch.rand(30, 3, dtype=torch.float64) * 0.25
    found = MinimumNorm(endless("Linf"), steps=2).distance(Step(), x, torch.zeros(30, dtype=torch.int64))
    torch.testing.assert_close(found, 0.3 - x[:, 0], rtol=1.5e-4, atol=0)
    assert (found >= 0.3 - x[:, 0]).all()


@norms
def test_verdicts_hold_in_exact_arithmetic_too(norm):
    problem = linear_problem(100, 5, n=300, seed=7, dtype=torch.float32)
    x_adv = MinimumNorm(endless(norm), steps=4)(problem.model, problem.x, problem.y)
    with torch.no_grad():
        exact = nn.functional.linear(
            x_adv.double(), problem.model.weight.double(), problem.model.bias.double()
        )
    assert losses.is_wrong(exact, problem.y).all()


@norms
def test_stopping_early_breaks_the_same_images_with_less_work(norm):
    model, x, y = trained_network()
    distance = MinimumNorm(endless(norm), steps=50).distance(model, x, y)
    threat = rl.ThreatModel(norm, float(distance[distance > 0].median()) * 1.05)
    stopping, going_on = Counted(model), Counted(model)
    stopped = MinimumNorm(threat, steps=50, stop_at_success=True)(stopping, x, y)
    nearest = MinimumNorm(threat, steps=50)(going_on, x, y)
    broken = losses.is_wrong(model(stopped), y)
    assert torch.equal(broken, losses.is_wrong(model(nearest), y))
    assert 0.4 < broken.float().mean() < 0.8
    assert broken[distance < 0.98 * threat.eps].all()
    assert stopping.tracked + stopping.judged < 0.7 * (going_on.tracked + going_on.judged)
    further = threat.distance(stopped, x) - threat.distance(nearest, x)
    assert (further >= -1e-9).all()


def test_restarts_never_lose_and_sometimes_win():
    model, x, y = trained_network()
    once = MinimumNorm(endless("L1"), steps=16)
    thrice = MinimumNorm(endless("L1"), steps=16, restarts=3)
    assert [attack.restart for attack in thrice.tries()] == [0, 1, 2]
    distance = once.distance(model, x, y)
    repeated = thrice.distance(model, x, y)
    tries = torch.stack([attack.distance(model, x, y) for attack in thrice.tries()])
    torch.testing.assert_close(repeated, tries.amin(0))
    assert (repeated < 0.99 * distance).sum() >= 3


@norms
def test_targeted_it_reaches_the_wanted_class_only(norm):
    problem = linear_problem(40, 5, n=30, seed=3)
    wanted = (problem.y + 2) % 5
    attack = MinimumNorm(endless(norm), steps=50, targeted=True)
    x_adv, found = attack(problem.model, problem.x, wanted), attack.distance(problem.model, problem.x, wanted)
    assert (problem.model(x_adv).argmax(1) == wanted).all()
    least = problem.class_distances(norm).gather(1, wanted[:, None])[
        :, 0
    ]  # the other classes may be in the way
    assert (found >= least * (1 - 1e-6)).all()
    assert (found <= 1.02 * least).float().mean() > 0.2
    already = attack(problem.model, problem.x, problem.y)
    assert torch.equal(already, problem.x)
    two = linear_problem(40, 2, n=40, seed=3)
    found = attack.distance(two.model, two.x, 1 - two.y)
    assert (found <= 1.02 * two.distances(norm)).all()


@norms
def test_the_unit_of_the_pixels_does_not_matter(norm):
    """Bounds of 0 and 256: a power of two, so that all numbers scale exactly."""

    class Scaled(nn.Module):
        def forward(self, x):
            return model(x / 256)

    model, x, y = trained_network(steps=100)
    model = nn.Sequential(model, nn.Linear(4, 6).double())  # six classes: walks begin at boundaries alone
    y = model(x).argmax(1)
    small = MinimumNorm(endless(norm), steps=16).distance(model, x, y)
    large = MinimumNorm(endless(norm, (0.0, 256.0)), steps=16).distance(Scaled(), x * 256, y)
    assert small.isfinite().all()
    torch.testing.assert_close(large, small * 256, rtol=1e-9, atol=0)


def test_a_model_that_is_flat_at_x_is_searched_from_random_points():
    class Plateau(nn.Module):
        """Flat within 0.1 of 0.5, then rising: no gradient at x, two classes."""

        def forward(self, x):
            rise = ((x - 0.5).abs() - 0.1).relu().sum(1) - 0.3
            return torch.stack([-rise, rise], 1)

    x, y = torch.full((5, 6), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    exact = {"Linf": 0.15, "L1": 0.4, "L2": (3 * 0.2**2) ** 0.5}  # six, one and three pixels
    for norm, least in exact.items():
        found = MinimumNorm(endless(norm)).distance(Plateau(), x, y)
        assert (found >= least * (1 - 1e-6)).all(), norm
        assert (found <= 3 * least).all(), norm


def test_a_nan_is_misclassified_and_no_image_becomes_one():
    class Nan(nn.Module):
        def forward(self, x):
            logits = torch.stack([1 - x.sum(1), 0 * x[:, 0]], 1)
            return torch.where(x.sum(1, keepdim=True) > 0.8, torch.nan, logits)

    x, y = torch.full((4, 5), 0.1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    attack = MinimumNorm(endless("Linf"))
    assert torch.isfinite(attack(Nan(), x, y)).all()
    torch.testing.assert_close(
        attack.distance(Nan(), x, y), torch.full((4,), 0.06).double(), rtol=1e-3, atol=0
    )
    everywhere = x + 1
    assert torch.equal(attack(Nan(), everywhere.clamp(0, 1), y), everywhere.clamp(0, 1))
    targeted = MinimumNorm(endless("L2"), steps=9, targeted=True)
    assert torch.isfinite(targeted(Nan(), x, 1 - y)).all()


def test_a_class_that_is_ruled_out_is_no_rival():
    class Masked(nn.Module):
        """The last class never wins."""

        def forward(self, x):
            never = torch.full_like(x[:, :1], -torch.inf)
            return torch.cat([1 - x.sum(1, keepdim=True), 0 * x[:, :1], never], 1)

    x, y = torch.full((4, 5), 0.1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    found = MinimumNorm(endless("L1")).distance(Masked(), x, y)
    torch.testing.assert_close(found, torch.full((4,), 0.5).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("eps", [0.0, 0.3, math.inf])
def test_any_radius_any_shape_no_images(eps):
    model, x, y = trained_network(steps=30)
    attack = MinimumNorm(rl.ThreatModel("Linf", eps), steps=9)
    assert attack(model, x[:0], y[:0]).shape == (0, 10)
    assert attack.distance(model, x[:0], y[:0]).shape == (0,)
    found = attack.distance(model, x, y)
    wrong = losses.is_wrong(model(x), y)
    assert torch.equal(found == 0, wrong)
    if eps == 0:
        assert (found[~wrong] == torch.inf).all()


def test_the_search_of_an_image_does_not_depend_on_its_batch():
    model, x, y = trained_network()
    attack = MinimumNorm(endless("L2"), steps=16, restarts=2)
    whole = attack(model, x, y)
    parts = torch.cat([attack(model, *pair) for pair in zip(x.split(15), y.split(15), strict=True)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


def test_a_model_without_input_gradient_is_one_clear_line():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach()[:, :3]

    with pytest.raises(ModelError, match="no gradient with respect to the input"):
        MinimumNorm(endless("L2"))(Detached(), torch.rand(2, 5), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"restart": -1}, "restart -1"),
        ({"gamma": 1.0}, "gamma"),
        ({"gamma": 0.0}, "gamma"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        MinimumNorm(endless("L2"), **options)
    assert "\n" not in str(caught.value)


def test_it_is_known_by_name():
    attack = rl.attacks.get("min-norm-30", rl.ThreatModel("L2", 0.5), restarts=2, seed=4)
    assert attack == MinimumNorm(rl.ThreatModel("L2", 0.5), steps=30, restarts=2, seed=4)
    assert rl.attacks.get("min-norm", endless("L1")).steps == 100
