"""APGD against linear classifiers with exact distances, and against runs worked out by hand."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens import losses
from robustlens.attacks import APGD, apgd, ascents
from robustlens.attacks.base import Goal
from robustlens.errors import ConfigError


def broken(attack, model, x, y):
    return losses.is_wrong(model(attack(model, x, y)), y)


@pytest.mark.parametrize(
    ("classes", "bounds", "options"),
    [
        (2, (0.0, 1.0), {"loss": "ce"}),
        (2, (-20.0, 20.0), {"loss": "ce"}),  # the box is too far away to bind
        (4, (0.0, 1.0), {"loss": "margin", "targets": 3}),
    ],
)
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_verdicts_are_exact_just_inside_and_just_outside_the_nearest_error(norm, classes, bounds, options):
    problem = replace(linear_problem(40, classes, n=24, seed=1), bounds=bounds)
    distance = problem.distances(norm)
    for factor in (0.999, 1.001):
        threat = rl.ThreatModel(norm, factor * float(distance.median()), bounds)
        found = broken(APGD(threat, stop_at_success=True, **options), problem.model, problem.x, problem.y)
        clear = (distance / threat.eps - 1).abs() > 0.0009
        assert clear.sum() >= 20
        assert clear[distance.argsort()[11]]  # the median
        assert torch.equal(found[clear], (distance < threat.eps)[clear])


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_single_target_is_reached_wherever_it_is_within_eps(norm):
    problem = linear_problem(30, 5, n=40, seed=4)
    ranked = problem.model(problem.x).scatter(1, problem.y[:, None], -torch.inf).argsort(1, descending=True)
    distance = problem.class_distances(norm)
    third = distance.gather(1, ranked[:, 2:3]).squeeze(1)
    threat = rl.ThreatModel(norm, 1.001 * float(third.sort().values[10]))
    found = broken(APGD(threat, loss="margin", target_rank=2), problem.model, problem.x, problem.y)
    assert found[third <= threat.eps / 1.0009].all()
    assert not found[distance.amin(1) > threat.eps].any()
    assert not found[distance.amin(1) <= threat.eps].all()  # the way to another class is another way


def test_check_points_are_those_of_the_paper():
    assert ascents._Momentum.windows(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert ascents._Momentum.windows(10) == {3: 3, 5: 2, 6: 1, 7: 1, 8: 1, 9: 1}
    assert ascents._Momentum.windows(1) == {}
    assert ascents._Sparse.windows(100) == dict.fromkeys(range(4, 100, 4), 4)
    assert ascents._Sparse.windows(3) == {1: 1, 2: 1}


class Tent(nn.Module):
    """Two classes and one pixel: the margin of the wrong peaks at 0.53, where it is 0; keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(round(x[0].item(), 6))
        fall = (x - 0.53).abs().squeeze(1)
        return torch.stack([fall, torch.zeros_like(fall)], 1)


def test_a_climb_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(ascents._Momentum, "start", staticmethod(lambda threat, x, key: x))
    model, x = Tent(), torch.tensor([[0.5]], dtype=torch.float64)
    x_adv = APGD(rl.ThreatModel("Linf", 0.1), steps=6, loss="margin")(model, x, torch.tensor([0]))
    # Check-points 2, 3, 4, 5. Steps of 0.2: first without momentum, 0.5 -> 0.6, then with it, 0.475. One rise of
    # two: 0.1 from now on, back to 0.5. To 0.55 (a rise), to 0.4875 (none: 0.05, back to 0.55), to 0.5125 (a
    # rise), to 0.540625. The first of all is the look at x.
    assert model.seen == [0.5, 0.5, 0.6, 0.475, 0.55, 0.4875, 0.5125, 0.540625]
    torch.testing.assert_close(x_adv, torch.tensor([[0.540625]], dtype=torch.float64))


def begun(kind, threat, x):
    y = torch.zeros(len(x), dtype=torch.int64)
    return kind.begin(threat, x, x.clone(), Goal(losses.get("ce"), y, y))


def test_each_image_halves_its_own_step_by_the_two_conditions():
    climb = begun(ascents._Momentum, rl.ThreatModel("Linf", 0.1), torch.full((4, 3), 0.5))
    climb.x_best = torch.full((4, 3), 0.4)
    climb.rises = torch.tensor([6, 7, 7, 7])  # 6 are too few
    climb.halved = torch.tensor([True, True, False, False])
    climb.value_checked = torch.tensor([1.0, 1.0, 1.0, 1.0])
    climb.value = torch.zeros(4)
    climb.value_best = torch.tensor([2.0, 1.0, 1.0, 2.0])  # the second had its step halved, the third not
    climb.check(rl.ThreatModel("Linf", 0.1), 6.0)
    torch.testing.assert_close(climb.step_size, torch.tensor([0.1, 0.2, 0.1, 0.2]))
    torch.testing.assert_close(climb.x_adv[:, 0], torch.tensor([0.4, 0.5, 0.4, 0.5]))
    torch.testing.assert_close(climb.value, torch.tensor([2.0, 0.0, 1.0, 0.0]))
    assert climb.halved.tolist() == [True, False, True, False]
    assert climb.value_checked.tolist() == [2.0, 1.0, 1.0, 2.0]
    assert climb.rises.tolist() == [0, 0, 0, 0]


def test_of_equal_values_the_first_is_the_best_and_no_rise():
    """Algorithm 1 takes a new best point, and counts a step, where the objective is larger than before."""
    climb = begun(ascents._Momentum, rl.ThreatModel("Linf", 0.1), torch.zeros(3, 2))
    for point, values in ((0.1, [1.0, 1.0, 1.0]), (0.2, [1.0, 2.0, 0.0])):
        climb.x_adv = torch.full((3, 2), point)
        climb.judge(climb.x_adv * 10, torch.tensor(values))
    torch.testing.assert_close(climb.x_best[:, 0], torch.tensor([0.1, 0.2, 0.1]))
    torch.testing.assert_close(climb.gradient_best[:, 0], torch.tensor([1.0, 2.0, 1.0]))
    assert climb.value_best.tolist() == [1.0, 2.0, 1.0]
    assert climb.rises.tolist() == [0, 1, 0]  # the first point is no rise


def test_sparse_steps_lengthen_with_sparser_points_and_shorten_otherwise():
    threat = rl.ThreatModel("L1", 1.0)
    x = torch.full((3, 12), 0.5)
    climb = begun(ascents._Sparse, threat, x)
    climb.support, climb.step_size = torch.tensor([10, 10, 10]), torch.tensor([0.3, 0.3, 0.12])
    climb.x_best = x.clone()
    climb.x_best[0, :9] = 0.6
    climb.x_best[1, :10] = 0.6
    climb.x_best[1, 11] = 1.0  # held by the box: does not count
    climb.x_best[2, :10] = 0.4
    climb.x_best[2, 11] += 1e-7  # rounding
    climb.check(threat, 0.0)
    assert climb.support.tolist() == [9, 10, 10]
    assert climb.count.tolist() == [6, 6, 6]
    torch.testing.assert_close(climb.step_size, torch.tensor([1.0, 0.2, 0.1]))
    assert [bool(torch.equal(a, b)) for a, b in zip(climb.x_adv, climb.x_best, strict=True)] == [
        True,
        False,
        False,
    ]


def test_the_steepest_free_coordinates_move_and_the_held_go_with_them():
    gradient = torch.tensor([[5.0, -4.0, 3.0, -2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    held = torch.tensor([[True, False, False, True, False, False]] * 2)
    step = ascents._steepest(gradient, held, torch.tensor([2, 3]))
    torch.testing.assert_close(step[0], torch.tensor([0.5, -0.5, 0.5, 0.0, 0.0, 0.0]))
    assert torch.equal(step[1], torch.zeros(6))


class Watch(nn.Module):
    """A small network that keeps what it was shown, and counts backward passes."""

    def __init__(self, classes=5, dim=20):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.Tanh(), nn.Linear(32, classes))
        self.seen, self.backwards = [], 0

    def forward(self, x):
        self.seen.append(x.detach().clone())
        if x.requires_grad:
            x.register_hook(self._count)
        return self.net(x)

    def _count(self, gradient):
        self.backwards += 1


@pytest.mark.parametrize(("norm", "eps", "balls"), [("Linf", 0.02, 1), ("L2", 0.1, 1), ("L1", 0.2, 3)])
def test_each_step_costs_one_pass_forwards_and_one_back(norm, eps, balls):
    model, x = Watch(), torch.rand(6, 20)
    APGD(rl.ThreatModel(norm, eps), steps=20)(model, x, model.net(x).argmax(1))
    assert model.backwards == 20
    assert len(model.seen) == 1 + 20 + balls  # x, the steps, and the last point of each ball


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.02), ("L2", 0.05), ("L1", 0.1)])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_returned_is_the_highest_loss_seen_where_no_point_fools(norm, eps, loss):
    model, x = Watch().double(), torch.rand(30, 20, dtype=torch.float64)
    y = model.net(x).argmax(1)
    threat = rl.ThreatModel(norm, eps)
    x_adv = APGD(threat, steps=15, loss=loss)(model, x, y)
    seen = [each for each in model.seen if (threat.distance(each, x) <= eps + 1e-9).all()]
    value = torch.stack([losses.get(loss)(model.net(each), y) for each in seen])
    standing = ~torch.stack([losses.is_wrong(model.net(each), y) for each in seen]).any(0)
    assert standing.sum() > 10
    returned = losses.get(loss)(model.net(x_adv), y)
    torch.testing.assert_close(returned[standing], value.amax(0)[standing], rtol=0, atol=1e-6)


def test_larger_balls_come_first_in_l1():
    threat = rl.ThreatModel("L1", 0.5)
    model, x = Watch(), torch.rand(8, 20) * 0.4 + 0.3
    x_adv = APGD(threat, steps=100)(model, x, model.net(x).argmax(1))
    radius = torch.stack([threat.distance(each, x).amax() for each in model.seen]) / threat.eps
    ends = [1, 1 + 31, 1 + 31 + 31, 1 + 31 + 31 + 41]
    for ball, first, last in zip((3.0, 2.0, 1.0), ends[:-1], ends[1:], strict=True):
        torch.testing.assert_close(radius[first:last].amax(), torch.tensor(ball), rtol=1e-4, atol=0)
    assert len(radius) == ends[-1]
    assert threat.distance(x_adv, x).amax() <= threat.eps + 1e-6


def test_points_outside_eps_do_not_count():
    shown = []

    class FarOff(nn.Module):
        """Wrong beyond an L1 distance of 0.9 from the middle."""

        def forward(self, x):
            shown.append(len(x))
            far = (x - 0.5).abs().sum(1)
            return torch.stack([0.9 - far, far - 0.9], 1)

    x, y = torch.full((3, 10), 0.5), torch.zeros(3, dtype=torch.int64)
    for stop in (False, True):
        attack = APGD(rl.ThreatModel("L1", 0.8), steps=20, stop_at_success=stop)
        shown.clear()
        assert not broken(attack, FarOff(), x, y).any()
        assert shown == [3] * (1 + 20 + 3 + 1)  # nothing was dropped in a larger ball; the last look is ours
    assert broken(replace(attack, threat=rl.ThreatModel("L1", 1.0)), FarOff(), x, y).all()


def bent_nets(count):
    """Networks that bend so much within the ball that the way up matters."""
    for seed in range(count):
        torch.manual_seed(seed)
        layers = [nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)]
        model = nn.Sequential(*layers).double()
        with torch.no_grad():
            for layer, scale in ((0, 3), (2, 3), (4, 5)):
                model[layer].weight *= scale
        x = torch.rand(100, 20, dtype=torch.float64)
        yield model, x, model(x).argmax(1)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.3), ("L1", 1.0)])
def test_apgd_is_at_least_as_strong_as_pgd_on_average(norm, eps):
    threat, found = rl.ThreatModel(norm, eps), {}
    for model, x, y in bent_nets(4):
        for attack in (APGD(threat, 20), rl.attacks.PGD(threat, 20)):
            logits = model(attack(model, x, y)).detach()
            each = torch.stack([losses.cross_entropy(logits, y), losses.is_wrong(logits, y).double()])
            found.setdefault(type(attack), []).append(each.mean(1))
    (loss, rate), (loss_pgd, rate_pgd) = (torch.stack(each).mean(0) for each in found.values())
    assert 0.3 < rate_pgd < 0.9
    assert loss >= loss_pgd
    assert rate >= rate_pgd - 0.01  # a higher cross entropy may belong to fewer mistakes


def test_targets_and_restarts_only_ever_help_and_stopping_early_changes_no_verdict():
    model, x, y = next(bent_nets(1))
    threat = rl.ThreatModel("Linf", 0.1)
    once = APGD(threat, 3, loss="margin", target_rank=0)
    first, second = broken(once, model, x, y), broken(replace(once, target_rank=1), model, x, y)
    again = broken(replace(once, restart=1), model, x, y)
    both = broken(replace(once, target_rank=None, targets=2), model, x, y)
    assert torch.equal(both, first | second)
    assert torch.equal(broken(replace(once, restarts=2), model, x, y), first | again)
    assert both.sum() > first.sum() > 0
    many = APGD(threat, 8, loss="dlr", targets=4, restarts=2)
    patient, hasty = (broken(replace(many, stop_at_success=stop), model, x, y) for stop in (False, True))
    assert torch.equal(patient, hasty)


def test_tries_are_every_restart_towards_every_class():
    attack = APGD(rl.ThreatModel("Linf", 0.1), loss="dlr", targets=2, restarts=2, restart=5)
    assert [(t.target_rank, t.restart) for t in attack.tries()] == [(0, 5), (0, 6), (1, 5), (1, 6)]
    assert all(t.tries() == (t,) for t in attack.tries())
    single = APGD(rl.ThreatModel("Linf", 0.1))
    assert single.tries() == (single,)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_every_try_starts_somewhere_else(norm):
    attack, x = APGD(rl.ThreatModel(norm, 0.1), 1, loss="dlr", targets=2, restarts=2), torch.rand(4, 20)
    starts = []
    for each in attack.tries():
        model = Watch()
        each(model, x, model.net(x).argmax(1))
        starts.append(model.seen[1])  # after the look at x
    assert not any(torch.equal(a, b) for a, b in combinations([x, *starts], 2))


def test_any_other_class_counts_on_the_way_to_the_wanted_one(monkeypatch):
    class Aside(nn.Module):
        """From x to the right class 1 gains on class 0, but at 0.6 it is class 2 that wins."""

        def forward(self, x):
            at = x.squeeze(1)
            near = (0.05 - (at - 0.6).abs()).clamp_min(-0.01)
            return torch.stack([0 * at, at - 1, near, 0 * at - 9], 1)

    monkeypatch.setattr(ascents._Momentum, "start", staticmethod(lambda threat, x, key: x + 0.1))
    x, y, model = torch.tensor([[0.5]]), torch.tensor([0]), Aside()
    ranks = APGD(rl.ThreatModel("Linf", 0.2), 10, loss="margin", targets=2).tries()
    assert model(x).argsort(1, descending=True).tolist() == [[0, 2, 1, 3]]
    x_adv = ranks[1](model, x, y)  # towards class 1, which is closest to winning at 0.7
    torch.testing.assert_close(x_adv, torch.tensor([[0.6]]))
    assert model(x_adv).argmax(1).item() == 2


@pytest.mark.parametrize(("classes", "targets"), [(2, 0), (2, 9), (3, 9)])
def test_few_classes_climb_the_margin_in_place_of_dlr(classes, targets):
    model, x = Watch(classes), torch.rand(20, 20)
    y = model.net(x).argmax(1)
    threat = rl.ThreatModel("Linf", 0.1)
    attack = APGD(threat, 5, loss="dlr", targets=targets)
    by_margin = replace(attack, loss="margin")
    assert torch.equal(attack(model, x, y), by_margin(model, x, y))


def test_dlr_is_dlr_where_there_are_classes_enough():
    model, x = Watch(3), torch.rand(20, 20)
    attack = APGD(rl.ThreatModel("L2", 0.1), 5, loss="dlr")
    y = model.net(x).argmax(1)
    assert not torch.equal(attack(model, x, y), replace(attack, loss="margin")(model, x, y))


def test_a_note_says_where_the_margin_takes_the_place_of_dlr():
    threat = rl.ThreatModel("Linf", 0.1)
    plain, targeted = APGD(threat, loss="dlr"), APGD(threat, loss="dlr", targets=9)
    assert plain.note(2) == "APGD climbs the margin: 'dlr' is not defined for 2 classes"
    assert targeted.note(3) == "targeted APGD climbs the margin: 'dlr' is not defined for 3 classes"
    assert plain.note(3) is None
    assert targeted.note(4) is None
    assert APGD(threat, loss="ce").note(2) is None


def test_a_target_that_does_not_exist_costs_one_look():
    model, x = Watch(3), torch.rand(4, 20)
    y = model.net(x).argmax(1)
    x_adv = APGD(rl.ThreatModel("Linf", 0.1), loss="dlr", target_rank=2)(model, x, y)
    assert torch.equal(x_adv, x)
    assert len(model.seen) == 1


class Alternating(nn.Module):
    """A linear model whose weights are off by plus and minus the same amount in turn."""

    def __init__(self, dim=30):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(dim, generator=generator, dtype=torch.float64)
        self.error = 5 * torch.randn(dim, generator=generator, dtype=torch.float64)
        self.passes = 0

    def forward(self, x):
        sign = 1 if self.passes % 2 else -1
        self.passes += 1
        score = (x - 0.5) @ (self.weight + sign * self.error)
        return torch.stack([10 - score, score - 10], 1)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.3), ("L1", 0.3)])
def test_the_gradient_of_a_randomised_model_is_averaged_over_passes(norm, eps):
    x, y = torch.full((5, 30), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    model = Alternating()
    best = {"Linf": model.weight.abs().sum(), "L2": model.weight.norm(), "L1": model.weight.abs().amax()}[
        norm
    ]

    def rise(eot):
        return (APGD(rl.ThreatModel(norm, eps), 50, loss="margin", eot=eot)(model, x, y) - 0.5) @ model.weight

    torch.testing.assert_close(rise(2), (eps * best).expand(5), rtol=1e-3, atol=0)
    assert (rise(1) < 0.98 * eps * best).all()


def test_a_randomised_model_is_fooled_where_most_passes_are_wrong():
    votes = [torch.tensor(vote) for vote in ([True, True, False], [True, False, False])]
    assert apgd._majority(votes).tolist() == [True, False, False]
    assert apgd._majority(votes[:1]).tolist() == [True, True, False]


def test_steps_have_a_length_of_their_own_for_each_image():
    x, gradient = torch.rand(3, 2, 4), torch.randn(3, 2, 4)
    sizes = torch.tensor([0.1, 0.2, 0.3])
    for norm in ("Linf", "L2", "L1"):
        threat = rl.ThreatModel(norm, 1.0)
        together = threat.ascend(x, gradient, sizes)
        alone = [threat.ascend(x[i : i + 1], gradient[i : i + 1], float(sizes[i])) for i in range(3)]
        torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_nan_logits_count_as_broken_and_images_stay_images(norm):
    class Nan(nn.Module):
        def forward(self, x):
            return x[:, :5] * float("nan")

    class Edge(nn.Module):
        """Right at x, not a number a little to the right."""

        def forward(self, x):
            score = torch.where(x[:, :1] > 0.51, torch.nan, 0.52 - x[:, :1])
            return torch.cat([score, -score], 1)

    x, y = torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)
    for options in ({}, {"loss": "dlr", "targets": 2}):
        x_adv = APGD(rl.ThreatModel(norm, 0.1), 12, **options)(Nan(), x, y)
        assert torch.isfinite(x_adv).all()
    x_adv = APGD(rl.ThreatModel(norm, 0.1), 12)(Edge(), torch.full((4, 5), 0.5), y)
    assert torch.isfinite(x_adv).all()
    assert losses.is_wrong(Edge()(x_adv), y).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"eot": 0}, "eot 0"),
        ({"targets": -1}, "targets -1"),
        ({"target_rank": -1}, "target_rank -1"),
        ({"targets": 2, "target_rank": 1}, "targets=0"),
        ({"rho": 1.5}, "rho: found 1.5"),
        ({"loss": "hinge"}, "one of ce, margin, dlr, kl"),
        ({"loss": "kl", "targets": 3}, "targeted loss: found 'kl'"),
        ({"threat": rl.ThreatModel("L2", float("inf"))}, "finite radius"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        APGD(**{"threat": rl.ThreatModel("Linf", 0.1), **options})
    assert "\n" not in str(caught.value)


def test_names():
    threat = rl.ThreatModel("Linf", 0.1)
    assert rl.attacks.get("apgd-ce", threat) == APGD(threat, 100, loss="ce", stop_at_success=True)
    assert rl.attacks.get("apgd-dlr-30", threat, restarts=3).steps == 30
    targeted = rl.attacks.get("apgd-t", threat)
    assert (targeted.loss, targeted.targets, targeted.steps) == ("dlr", 9, 100)
