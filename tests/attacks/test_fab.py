"""FAB against models whose nearest misclassified image is known: linear, piecewise linear, a circle."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens.attacks import FAB, fab
from robustlens.errors import ConfigError, ModelError

NORMS = ["Linf", "L2", "L1"]


def found_distance(threat, attack, model, x, y):
    """Distance of the misclassified image that the attack returns, infinite where it is right."""
    x_adv = attack(model, x, y)
    with torch.no_grad():
        wrong = model(x_adv).argmax(1) != y
    return torch.where(wrong, threat.distance(x_adv, x), torch.inf)


class Seen:
    """Passes through a model: the points of each forward pass, the images of each backward pass."""

    def __init__(self, model):
        self.points, self.tracked, self.backward = [], [], []
        model.register_forward_pre_hook(lambda module, inputs: self.points.append(inputs[0].detach().clone()))
        model.register_forward_hook(self._follow)

    def _follow(self, module, inputs, logits):
        self.tracked.append(logits.requires_grad)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.backward.append(len(gradient)))

    @property
    def forward(self):
        return [len(points) for points in self.points]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("targeted", [False, True])
def test_finds_the_exact_distance_of_linear_models_and_never_less(norm, classes, targeted):
    problem = linear_problem(40, classes, n=60, seed=classes)
    exact = problem.distances(norm)
    assert exact.isfinite().all()
    threat = rl.ThreatModel(norm, math.inf)
    attack = FAB(threat, steps=10, targets=classes - 1 if targeted else 0)
    seen = Seen(problem.model)
    found = found_distance(threat, attack, problem.model, problem.x, problem.y)
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found <= exact * (1 + 1e-4)).all()
    assert all(points.min() >= 0 and points.max() <= 1 for points in seen.points)


@pytest.mark.parametrize("norm", NORMS)
def test_single_precision_loses_only_the_rounding_of_the_logits(norm):
    problem = linear_problem(40, 6, n=60, dtype=torch.float32)
    threat = rl.ThreatModel(norm, math.inf)
    found = found_distance(threat, FAB(threat, steps=10, targets=5), problem.model, problem.x, problem.y)
    assert (found >= problem.distances(norm, slack=1) * (1 - 1e-6)).all()
    assert (found <= problem.distances(norm, slack=-1) * (1 + 1e-3)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_class_that_the_box_forbids_hides_no_other(norm):
    """f_1 = a - 5 is out of reach, though the corner at which it is largest is near; f_2 is b + c + d - 2.1."""
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]]))
        model.bias.copy_(torch.tensor([0.0, -5, -2.1]))
    x, y = torch.tensor([[0.9, 0.5, 0.5, 0.5]], dtype=torch.float64), torch.tensor([0])
    threat = rl.ThreatModel(norm, math.inf)
    for attack in (FAB(threat, steps=5), FAB(threat, steps=5, targets=2)):
        found = found_distance(threat, attack, model, x, y)
        assert found.item() == pytest.approx({"Linf": 0.2, "L2": 0.12**0.5, "L1": 0.6}[norm], rel=1e-4)
    with torch.no_grad():
        model.bias[2] = -5
    for attack in (FAB(threat, steps=5), FAB(threat, steps=5, targets=2)):
        assert torch.equal(attack(model, x, y), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fab-3", "fab-t-3"])
def test_verdicts_are_exact_just_inside_and_just_outside_every_margin(norm, name):
    problem = linear_problem(30, 5, n=8, seed=1)
    exact = problem.distances(norm)
    for i, distance in enumerate(exact.tolist()):
        x, y = problem.x[i : i + 1], problem.y[i : i + 1]
        for factor, robust in ((0.999, True), (1.001, False)):
            threat = rl.ThreatModel(norm, factor * distance)
            x_adv = rl.attacks.get(name, threat)(problem.model, x, y)
            assert threat.distance(x_adv, x) <= threat.eps + 1e-9
            assert bool(problem.model(x_adv).argmax(1) == y) == robust


def network(inputs, width, classes, activation, scale, seed):
    """A rough function: weights `scale` times the usual, all classes about equally likely on the box."""
    torch.manual_seed(seed)
    parts = [nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation()]
    model = nn.Sequential(*parts, nn.Linear(width, classes)).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(scale)
        model[-1].bias.sub_(model(torch.rand(1000, inputs, dtype=torch.float64)).mean(0))
    return model


@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_nearest_point_of_a_small_relu_network(norm):
    """Against all points of a grid over the box."""
    model, side = network(2, 12, 4, nn.ReLU, 3.0, seed=1), 501
    x = torch.rand(30, 2, dtype=torch.float64)
    axis = torch.linspace(0, 1, side, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        y, classes = model(x).argmax(1), model(grid).argmax(1)
    assert len(classes.unique()) == 4
    threat = rl.ThreatModel(norm, 0.6)
    best = [
        threat.distance(grid[classes != label], point.expand_as(grid[classes != label])).min()
        for point, label in zip(x, y, strict=True)
    ]
    best, cell = torch.stack(best), 2 / (side - 1)  # the grid's points are at most that far from any other
    once = found_distance(threat, FAB(threat, steps=50), model, x, y)
    often = found_distance(threat, FAB(threat, steps=30, targets=3, restarts=3), model, x, y)
    for found, share in ((once, 0.75), (often, 0.95)):  # the search is a local one
        assert (found >= best - cell).all()
        assert (found <= best * 1.01 + cell).float().mean() >= share
    assert (often <= best * 1.5 + cell).all()


class Disc(nn.Module):
    """Class 0 inside a circle of radius 1, class 1 outside, and a third class that is never predicted."""

    def forward(self, x):
        height = x.square().sum(1) - 1
        return torch.stack([-height, height, -height.abs() - 1], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_nearest_point_of_a_circle(norm):
    angle, radius = torch.rand(40, dtype=torch.float64) * 2 * math.pi, torch.rand(40, dtype=torch.float64)
    x = (0.3 + 0.6 * radius)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    size = x.abs()
    exact = {
        "L2": 1 - x.norm(dim=1),
        # (a + t)^2 + (b + t)^2 = 1
        "Linf": (-size.sum(1) + (2 - (size[:, 0] - size[:, 1]) ** 2).sqrt()) / 2,
        # A convex function of the L1 ball is largest at a corner: one coordinate moves.
        "L1": ((1 - size.flip(1).square()).sqrt() - size).amin(1),
    }[norm]
    threat = rl.ThreatModel(norm, math.inf, bounds=(-3.0, 3.0))
    y = torch.zeros(40, dtype=torch.int64)
    for targets in (0, 1):
        found = found_distance(threat, FAB(threat, steps=40, targets=targets), Disc(), x, y)
        assert (found >= exact * (1 - 1e-9)).all()
        assert (found <= exact * 1.005).float().mean() > 0.9
        assert (found <= exact * 1.5).all()


def test_the_first_steps_are_those_worked_out_by_hand():
    """f_1 - f_0 = log(x / 0.8) from x = 0.2: a step short of the boundary, one beyond it, and a step back."""

    class Log(nn.Module):
        def forward(self, x):
            return torch.cat([torch.zeros_like(x), (x / 0.8).log()], 1)

    def plane(at):
        return at - at * math.log(at / 0.8)  # where the tangent at `at` crosses zero

    model = Log()
    seen = Seen(model)
    x = torch.tensor([[0.2]], dtype=torch.float64)
    FAB(rl.ThreatModel("L2", math.inf, bounds=(0.0, 9.0)), steps=4)(model, x, torch.tensor([0]))
    at = [p.item() for p in seen.points[:5]]
    assert at[0] == 0.2
    assert at[1] == pytest.approx(0.2 + 1.05 * (plane(0.2) - 0.2))
    for k in (1, 2, 3):
        back = at[k] if at[k] < 0.8 else 0.2 + 0.9 * (at[k] - 0.2)
        to_plane, from_x = abs(plane(at[k]) - back), plane(at[k]) - 0.2
        alpha = min(0.1, to_plane / (to_plane + from_x))
        onwards = back + 1.05 * (plane(at[k]) - back)
        assert at[k + 1] == pytest.approx((1 - alpha) * onwards + alpha * (0.2 + 1.05 * from_x))
    assert at[2] < 0.8 < at[3]


def deep():
    return network(20, 64, 5, nn.Tanh, 2.0, seed=3)


def test_a_step_costs_one_forward_pass_and_one_gradient_for_each_rival():
    model = deep()
    x = torch.rand(7, 20, dtype=torch.float64)
    y = model(x).argmax(1)
    for rank, gradients in ((None, 4), (2, 1)):
        seen = Seen(model := deep())
        FAB(rl.ThreatModel("Linf", 1e-6), steps=8, target_rank=rank)(model, x, y)
        # The last point needs a verdict only; the final search has 1 + 3 forward passes.
        assert seen.forward == [7] * (8 + 1 + 1 + 3)
        assert seen.tracked == [True] * 8 + [False] * 5
        assert seen.backward == [7] * 8 * gradients


def test_images_are_dropped_once_broken_and_the_verdicts_are_the_same():
    model = deep()
    x = torch.rand(100, 20, dtype=torch.float64)
    y = model(x).argmax(1)
    threat = rl.ThreatModel("Linf", 0.03)
    nearest = FAB(threat, steps=10, targets=4)(model, x, y)
    seen = Seen(model)
    first = FAB(threat, steps=10, targets=4, stop_at_success=True)(model, x, y)
    broken = model(nearest).argmax(1) != y
    assert torch.equal(model(first).argmax(1) != y, broken)
    assert 20 < broken.sum() < 80
    assert (threat.distance(nearest, x) <= threat.distance(first, x) + 1e-12)[broken].all()
    assert (threat.distance(nearest, x) < 0.99 * threat.distance(first, x))[broken].any()
    assert sum(seen.forward) < 0.8 * 4 * 15 * 100
    assert sum(seen.backward) < 0.8 * 4 * 10 * 100


@pytest.mark.parametrize("norm", NORMS)
def test_a_misclassified_image_outside_the_ball_is_no_success(norm):
    problem = linear_problem(30, 3, n=20)
    exact = problem.distances(norm)
    threat = rl.ThreatModel(norm, 0.5 * exact.min().item())
    margin = rl.losses.margin
    for stop in (True, False):
        attack = FAB(threat, steps=5, stop_at_success=stop, targets=2)
        x_adv = attack(problem.model, problem.x, problem.y)
        assert (problem.model(x_adv).argmax(1) == problem.y).all()
        # What comes back instead lies on the ball, towards a boundary.
        torch.testing.assert_close(
            threat.distance(x_adv, problem.x), torch.full((20,), threat.eps, dtype=torch.float64)
        )
        assert (margin(problem.model(x_adv), problem.y) > margin(problem.model(problem.x), problem.y)).all()


def test_restarts_begin_elsewhere_and_only_ever_help():
    model = deep()
    x = torch.rand(100, 20, dtype=torch.float64)
    y = model(x).argmax(1)
    threat = rl.ThreatModel("L1", 2.0)
    once = found_distance(threat, FAB(threat, steps=3, target_rank=0), model, x, y)
    thrice = found_distance(threat, FAB(threat, steps=3, target_rank=0, restarts=3), model, x, y)
    assert (thrice <= once).all()
    assert (thrice < 0.99 * once).any()
    seen = Seen(model)
    FAB(threat, steps=3, target_rank=0, restart=1)(model, x, y)
    start = threat.distance(seen.points[1], x)
    assert torch.equal(seen.points[0], x)
    assert start.min() > 0
    assert start.max() <= 1.0  # half the radius


def test_a_point_at_a_distance_of_exactly_eps_comes_back_as_it_is():
    """Projected again it would be rounded, and perhaps no longer misclassified."""
    x, found = torch.full((4, 1), 0.9), torch.tensor([[0.0123], [0.0124], [0.0125], [0.0126]])
    rounded = 0
    for row in range(4):
        threat = rl.ThreatModel("Linf", (x[row] - found[row]).item())
        rounded += not torch.equal(threat.project(found[row : row + 1], x[row : row + 1])[0], found[row])
        nearest = fab._Nearest(threat, x[:1], torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        nearest.offer(torch.tensor([0]), found[row : row + 1], torch.tensor([[0.0, 1.0]]))
        assert torch.equal(nearest.within_eps()[0], found[row])
    assert rounded


def test_no_pass_is_made_for_no_image():
    problem = linear_problem(20, 2, n=5)
    with torch.no_grad():
        problem.model.bias[0] += 1000  # nothing else can be predicted in the box
    seen = Seen(problem.model)
    x_adv = FAB(rl.ThreatModel("L2", math.inf), steps=3)(problem.model, problem.x, torch.zeros(5).long())
    assert torch.equal(x_adv, problem.x)
    assert seen.forward == [5] * (1 + 3 + 1)  # x, the steps, and the point of the last plane


@pytest.mark.parametrize("targets", [0, 9])
def test_few_classes(targets):
    for classes in (2, 3):
        problem = linear_problem(20, classes, n=20)
        threat = rl.ThreatModel("L2", math.inf)
        attack = FAB(threat, steps=5, targets=targets)
        found = found_distance(threat, attack, problem.model, problem.x, problem.y)
        torch.testing.assert_close(found, problem.distances("L2"), rtol=1e-4, atol=0)
        seen = Seen(problem.model)
        beyond = FAB(threat, target_rank=classes - 1)
        assert torch.equal(beyond(problem.model, problem.x, problem.y), problem.x)
        assert seen.forward == [20]
        assert seen.backward == []


def test_an_image_that_is_wrong_comes_back_as_it_is():
    problem = linear_problem(20, 3, n=10)
    y = (problem.y + 1) % 3
    for restart in (0, 1):
        seen = Seen(problem.model)
        attack = FAB(rl.ThreatModel("Linf", 0.1), restart=restart)
        assert torch.equal(attack(problem.model, problem.x, y), problem.x)
        assert seen.forward == [10] * (1 + restart)
        assert seen.backward == []


def test_a_class_that_the_model_rules_out_does_not_hide_the_others():
    problem = linear_problem(20, 4, n=20, seed=2)
    with torch.no_grad():
        problem.model.bias[3] = -torch.inf
    y = problem.model(problem.x).argmax(1)
    threat = rl.ThreatModel("L2", math.inf)
    found = found_distance(threat, FAB(threat, steps=5), problem.model, problem.x, y)
    with torch.no_grad():
        problem.model.bias[3] = -1e3
    problem.y.copy_(y)
    torch.testing.assert_close(found, problem.distances("L2"), rtol=1e-4, atol=0)


class Fragile(nn.Module):
    """NaN beyond a plane that lies before the boundary."""

    def forward(self, x):
        height = x.sum(1) - 3
        return torch.stack([0 * height, torch.where(height > -0.2, torch.nan, height)], 1)


def test_nan_logits_are_a_success_and_leave_no_trace_in_the_image():
    x, y = torch.rand(5, 4) * 0.5, torch.zeros(5, dtype=torch.int64)
    for threat in (rl.ThreatModel("L2", math.inf), rl.ThreatModel("L2", 1e-3)):
        x_adv = FAB(threat, steps=20)(Fragile(), x, y)
        assert torch.isfinite(x_adv).all()
        if threat.eps == math.inf:
            assert Fragile()(x_adv).isnan().any(1).all()


def test_the_search_goes_on_where_logits_are_nan():
    model = Fragile()  # the boundary is at a distance of 0.6, NaN logits begin at 0.5
    x, y = torch.full((1, 4), 0.45, dtype=torch.float64), torch.tensor([0])
    threat = rl.ThreatModel("L2", math.inf)
    at_once = threat.distance(FAB(threat, steps=1)(model, x, y), x)
    assert 0.5 < at_once < 0.9 * 0.6  # by bisection
    assert 0.5 < threat.distance(FAB(threat, steps=6)(model, x, y), x) < 0.52  # by going back


def test_a_model_without_input_gradient_is_one_clear_line():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach()[:, :3]

    with pytest.raises(ModelError, match="no gradient with respect to the input"):
        FAB(rl.ThreatModel("Linf", 0.1))(
            Detached(), torch.rand(2, 5).sort(descending=True).values, torch.zeros(2).long()
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"targets": -1}, "targets -1"),
        ({"restart": -1}, "restart -1"),
        ({"targets": 2, "target_rank": 1}, "use it with targets=0"),
        ({"alpha_max": 1.5}, "alpha_max 1.5"),
        ({"beta": -0.1}, "beta -0.1"),
        ({"eta": 0.9}, "eta >= 1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        FAB(rl.ThreatModel("Linf", 0.1), **options)
    assert "\n" not in str(caught.value)


def test_random_starts_need_a_radius():
    for options in ({"restarts": 2}, {"restart": 1}):
        with pytest.raises(ConfigError, match="finite eps"):
            FAB(rl.ThreatModel("Linf", math.inf), **options)


def test_tries_and_names():
    threat = rl.ThreatModel("Linf", 0.1)
    attack = rl.attacks.get("fab-t", threat, restarts=2)
    assert (attack.steps, attack.targets, attack.stop_at_success) == (100, 9, True)
    tries = [(one.target_rank, one.restart, one.targets, one.restarts) for one in attack.tries()]
    assert tries == [(rank, restart, 0, 1) for rank in range(9) for restart in range(2)]
    plain = rl.attacks.get("fab-30", threat)
    assert (plain.steps, plain.targets) == (30, 0)
    assert plain.tries() == (plain,)
