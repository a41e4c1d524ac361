"""Objectives against values worked out by hand, and the inner attacks they name."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.attacks import FGSM, PGD
from robustlens.errors import ConfigError
from robustlens.recipe import AttackSpec


class Table(nn.Module):
    """Maps an input number to fixed logits, so that every term can be computed by hand."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x), -x], 1)


X, X_ADV, Y = torch.tensor([[1.0]]), torch.tensor([[-0.5]]), torch.tensor([0])


def softmax(*logits):
    z = sum(math.exp(v) for v in logits)
    return [math.exp(v) / z for v in logits]


P, P_ADV = softmax(1.0, 0.0, -1.0), softmax(-0.5, 0.0, 0.5)
KL = sum(p * math.log(p / q) for p, q in zip(P, P_ADV, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("standard", {}, -math.log(P[0])),
        ("at", {}, -math.log(P_ADV[0])),
        ("fgsm", {}, -math.log(P_ADV[0])),
        ("at", {"label_smoothing": 0.3}, -(0.8 * math.log(P_ADV[0]) + 0.1 * sum(map(math.log, P_ADV[1:])))),
        ("trades", {"beta": 6.0}, -math.log(P[0]) + 6.0 * KL),
        ("trades", {}, -math.log(P[0]) + 6.0 * KL),
        (
            "mart",
            {"beta": 5.0},
            -math.log(P_ADV[0]) - math.log(1.0001 - max(P_ADV[1:])) + 5.0 * (1 - P[0]) * KL,
        ),
        ("mart", {}, -math.log(P_ADV[0]) - math.log(1.0001 - max(P_ADV[1:])) + 5.0 * (1 - P[0]) * KL),
    ],
)
def test_losses_equal_hand_computed_values(name, options, expected):
    loss = rl.objectives.get(name, **options)(Table(), X, X_ADV, Y)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mart_stays_finite_for_a_confident_mistake():
    loss = rl.objectives.get("mart")(Table(), torch.tensor([[80.0]]), torch.tensor([[-80.0]]), Y)
    assert torch.isfinite(loss).all()


def test_inner_attacks_are_the_published_ones():
    threat, spec = rl.ThreatModel("Linf", 8 / 255), AttackSpec()
    for name, loss in {"at": "ce", "trades": "kl", "mart": "ce"}.items():
        attack = rl.objectives.get(name).inner_attack(threat, spec)
        assert isinstance(attack, PGD)
        assert (attack.loss, attack.steps, attack.keep, attack.random_start) == (loss, 10, "last", True)
    fast = rl.objectives.get("fgsm").inner_attack(threat, spec)
    assert isinstance(fast, FGSM)
    assert fast.step_size == pytest.approx(10 / 255)
    assert fast.random_start
    other = rl.objectives.get("fgsm").inner_attack(threat, AttackSpec(step_size=2 / 255))
    assert other.step_size == pytest.approx(10 / 255), "the step of PGD is not the step of FGSM"
    assert rl.objectives.get("standard").inner_attack is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("trade", {}, "one of standard, fgsm, at, trades, mart"),
        ("trades", {"betta": 1.0}, "expected one of beta, label_smoothing"),
        ("trades", {"beta": -1.0}, "expected a number in"),
        ("at", {"label_smoothing": 1.0}, "expected a number in"),
        ("mart", {"beta": "six"}, "expected a number in"),
        ("mart", {"inner_attack": None}, "unknown option"),
    ],
)
def test_wrong_objectives_are_refused_in_one_line(name, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        rl.objectives.get(name, **options)
    assert "\n" not in str(caught.value)
