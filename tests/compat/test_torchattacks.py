"""Torchattacks-like calls on a linear model."""

import pytest
import torch

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens.compat import torchattacks
from robustlens.errors import ConfigError


@pytest.fixture
def problem():
    return linear_problem(12, 3, n=12, seed=2, dtype=torch.float32)


def test_pgd_breaks_what_the_exact_distance_says(problem):
    x_adv = torchattacks.PGD(problem.model, eps=0.1, alpha=0.02, steps=20)(problem.x, problem.y)
    exact = problem.distances("Linf")
    clear = (exact / 0.1 - 1).abs() > 0.03
    broken = problem.model(x_adv).argmax(1) != problem.y
    assert (broken == (exact < 0.1))[clear].all()
    assert (x_adv - problem.x).abs().max() <= 0.1 + 1e-6


def test_starts_come_from_torchs_own_state(problem):
    attack = torchattacks.PGDL2(problem.model, eps=0.5, alpha=0.1, steps=1)
    torch.manual_seed(0)
    first, second = attack(problem.x, problem.y), attack(problem.x, problem.y)
    torch.manual_seed(0)
    assert torch.equal(attack(problem.x, problem.y), first)
    assert not torch.equal(first, second)


def test_square_takes_its_seed_and_leaves_torchs_own_state(problem):
    before = torch.get_rng_state()
    first, again, other = (
        torchattacks.Square(problem.model, eps=0.1, n_queries=20, seed=seed)(problem.x, problem.y)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_are_those_of_the_attack_here(problem):
    attack = torchattacks.PGD(problem.model, eps=0.3, alpha=0.05, steps=10, random_start=False)
    ours = rl.attacks.PGD(
        rl.ThreatModel("Linf", 0.3), steps=10, step_size=0.05, random_start=False, keep="last"
    )
    assert torch.equal(attack(problem.x, problem.y), ours(problem.model, problem.x, problem.y))
    wanted = (problem.y + 1) % 3
    attack.set_mode_targeted_by_label()
    predicted = problem.model(attack(problem.x, wanted)).argmax(1)
    assert (predicted == wanted).float().mean() > (problem.y == wanted).float().mean()
    attack.set_mode_targeted_least_likely()
    least = problem.model(problem.x).argmin(1)
    assert (problem.model(attack(problem.x, problem.y)).argmax(1) == least).any()
    attack.set_mode_default()
    assert torch.equal(attack(problem.x, problem.y), ours(problem.model, problem.x, problem.y))


def test_one_step_and_square_and_a_mode_that_is_not_there(problem):
    signed = torchattacks.FGSM(problem.model, eps=0.1)(problem.x, problem.y)
    ours = rl.attacks.FGSM(rl.ThreatModel("Linf", 0.1))(problem.model, problem.x, problem.y)
    assert torch.equal(signed, ours)
    square = torchattacks.Square(problem.model, eps=0.1, n_queries=50)
    assert (square(problem.x, problem.y) - problem.x).abs().max() <= 0.1 + 1e-6
    square.set_mode_targeted_by_label()
    with pytest.raises(ConfigError, match="expected PGD"):
        square(problem.x, problem.y)
