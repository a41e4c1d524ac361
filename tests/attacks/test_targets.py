"""Targeted PGD against the exact distance to the wanted class of a linear model."""

import numpy as np
import pytest
import scipy.optimize
import torch

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens.errors import ConfigError
from robustlens.evaluation.identity import identity

CLASSES, DIM, N = 4, 12, 10


def linf_distances(problem, targets):
    """Smallest Linf change of each image, inside the box, at which the target's logit is the largest: an LP."""
    weight, bias = (value.detach().numpy() for value in (problem.model.weight, problem.model.bias))
    exact = []
    for x, target in zip(problem.x.numpy(), targets, strict=True):
        others = [j for j in range(CLASSES) if j != target]
        beaten = np.hstack([weight[others] - weight[target], np.zeros((CLASSES - 1, 1))])
        room = weight[target] @ x + bias[target] - weight[others] @ x - bias[others]
        size = np.vstack([np.c_[sign * np.eye(DIM), -np.ones(DIM)] for sign in (1, -1)])
        solved = scipy.optimize.linprog(
            np.r_[np.zeros(DIM), 1],
            A_ub=np.vstack([beaten, size]),
            b_ub=np.r_[room, np.zeros(2 * DIM)],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        exact.append(solved.fun if solved.status == 0 else np.inf)
    return np.array(exact)


def reached(problem, row, eps, target, targets):
    """Whether targeted PGD gives the image at `row` the class `target`."""
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps), steps=40, step_size=eps / 8, targets=targets)
    x_adv = attack(problem.model, problem.x[row][None], problem.y[row][None])
    return int(problem.model(x_adv).argmax(1)) == target


@pytest.mark.parametrize("of_user", ["a list", "a tensor", "least-likely"])
def test_the_wanted_class_is_reached_beyond_its_exact_distance_and_never_before(of_user):
    """Descent on the cross entropy meets other classes on its way, so some images take a little more."""
    problem = linear_problem(DIM, CLASSES, n=N, seed=3)
    wanted = (problem.y + 1 + torch.arange(N) % (CLASSES - 1)) % CLASSES
    if of_user == "least-likely":
        wanted = problem.model(problem.x).argmin(1)
    exact = linf_distances(problem, wanted.tolist())
    near = 0
    for row in range(4):
        target = int(wanted[row])
        given = {"a list": [target], "a tensor": torch.tensor([target])}.get(of_user, of_user)
        assert not reached(problem, row, 0.999 * exact[row], target, given)
        assert reached(problem, row, min(1.35 * exact[row], 1.0), target, given)
        near += reached(problem, row, 1.05 * exact[row], target, given)
    assert near >= 3


def test_each_image_goes_to_its_own_class_where_some_are_won_sooner_than_others():
    problem = linear_problem(DIM, CLASSES, n=N, seed=3)
    wanted = (problem.y + 1) % CLASSES
    exact = linf_distances(problem, wanted.tolist())
    for early in (False, True):
        attack = rl.attacks.PGD(
            rl.ThreatModel("Linf", 0.3), steps=40, restarts=2, targets=wanted.tolist(), stop_at_success=early
        )
        won = (problem.model(attack(problem.model, problem.x, problem.y)).argmax(1) == wanted).numpy()
        assert won[exact < 0.22].all()
        assert not won[exact > 0.3].any()
        assert 0 < won.sum() < N


def test_least_likely_is_another_class_than_the_label_where_the_model_is_wrong():
    problem = linear_problem(DIM, CLASSES, n=N, seed=3)
    y = problem.model(problem.x).argmin(1)
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", 1.0), steps=50, targets="least-likely")
    after = problem.model(attack(problem.model, problem.x, y)).argmax(1)
    second = problem.model(problem.x).scatter(1, y[:, None], torch.inf).argmin(1)
    assert (after == second).float().mean() > 0.5


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("most-likely", "expected 'least-likely' or a class for each image"),
        (3, "expected whole numbers, one for each image"),
        ([0.5, 1.0], "expected whole numbers"),
        ([True, False], "expected whole numbers"),
        ([[1], [2]], r"of shape \(2, 1\)"),
        ([-1, 0], "found the class -1"),
        ([0, 1], "found 2 classes for 10 images"),
        ([9] * N, "found the class 9, expected 0 to 3"),
        ([], "found 0 classes for 10 images"),
    ],
)
def test_wrong_targets_are_one_line(targets, said):
    problem = linear_problem(DIM, CLASSES, n=N)
    with pytest.raises(ConfigError, match=said):
        rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), targets=targets)(problem.model, problem.x, problem.y)


def test_targets_are_not_given_twice_nor_class_by_class_to_an_evaluation():
    problem, threat = linear_problem(DIM, CLASSES, n=N, dtype=torch.float32), rl.ThreatModel("Linf", 0.3)
    with pytest.raises(ConfigError, match="found beside targeted"):
        rl.attacks.PGD(threat, targeted=True, targets="least-likely")
    with pytest.raises(ConfigError, match="expected 'least-likely' in an evaluation"):
        rl.evaluate(problem.model, problem.x, problem.y, threat, [rl.attacks.PGD(threat, targets=[0] * N)])
    towards = rl.attacks.PGD(threat, steps=50, targets="least-likely")
    evaluation = rl.evaluate(problem.model, problem.x, problem.y, threat, [towards], batch_size=3)
    exact = problem.distances("Linf").numpy()
    assert not (~evaluation.robust.numpy() & (exact > 0.3)).any()
    assert evaluation.robust.sum() < N


def test_an_attack_without_targets_keeps_the_hash_that_its_evaluations_are_bound_to():
    """The literal is of the version before targets were there: a stopped evaluation goes on."""
    problem, threat = linear_problem(2, 2, n=1, dtype=torch.float32), rl.ThreatModel("Linf", 0.1)
    bound = identity(
        problem.model, problem.x, problem.y, threat, [("pgd", rl.attacks.PGD(threat, steps=7))], "32-true"
    )
    assert bound["suite of attacks"] == "e4bc9b2d3963321e"
