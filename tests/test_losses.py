"""Surrogate losses against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from robustlens import losses
from robustlens.attacks.base import Goal
from robustlens.errors import ConfigError

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
Y = torch.tensor([0, 2])


def test_cross_entropy_by_hand():
    z = math.exp(2) + math.e + 1
    expected = [math.log(z) - 2, math.log(1 + math.exp(3) + math.e) - 1]
    torch.testing.assert_close(losses.cross_entropy(LOGITS, Y), torch.tensor(expected))


def test_margin_and_dlr_by_hand():
    torch.testing.assert_close(losses.margin(LOGITS, Y), torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(losses.dlr(LOGITS, Y), torch.tensor([-1.0 / 2.0, 2.0 / 3.0]))


def test_the_ramp_is_one_on_mistakes_zero_beyond_gamma_and_the_same_in_both_libraries():
    margins = [-0.5, 0.0, 0.25, 1.0, 2.0]
    assert losses.ramp(torch.tensor(margins)).tolist() == [1.0, 1.0, 0.75, 0.0, 0.0]
    found = losses.ramp(np.array(margins), 2.0)
    assert found.tolist() == [1.0, 1.0, 0.875, 0.5, 0.0]
    assert found.dtype == np.float64


def test_dlr_does_not_change_with_shift_and_scale():
    torch.testing.assert_close(losses.dlr(LOGITS * 7 + 3, Y), losses.dlr(LOGITS, Y))


def test_dlr_below_three_classes_is_refused():
    with pytest.raises(ConfigError, match="at least 3 classes"):
        losses.dlr(LOGITS[:, :2], torch.tensor([0, 1]))


FOUR = torch.tensor([[2.0, 1.0, 0.0, -2.0], [0.0, 3.0, 1.0, 4.0]])
PAIRS = torch.tensor([[0, 2], [2, 1]])


def test_targeted_losses_by_hand():
    torch.testing.assert_close(losses.targeted_margin(FOUR, PAIRS), torch.tensor([-2.0, 2.0]))
    # The largest minus the mean of third and fourth: 2 - (0 - 2) / 2 = 3, and 4 - (1 + 0) / 2 = 3.5.
    torch.testing.assert_close(losses.targeted_dlr(FOUR, PAIRS), torch.tensor([-2 / 3, 2 / 3.5]))
    z = math.exp(2) + math.e + 1 + math.exp(-2)
    torch.testing.assert_close(
        losses.targeted_cross_entropy(FOUR, PAIRS)[0], torch.tensor(-math.log(z), dtype=torch.float32)
    )


def test_targeted_dlr_does_not_change_with_shift_and_scale():
    torch.testing.assert_close(losses.targeted_dlr(FOUR * 7 + 3, PAIRS), losses.targeted_dlr(FOUR, PAIRS))


def test_targeted_dlr_below_four_classes_is_refused():
    with pytest.raises(ConfigError, match="at least 4 classes"):
        losses.targeted_dlr(LOGITS, torch.tensor([[0, 1], [1, 2]]))


def test_the_margin_stands_in_where_classes_are_too_few():
    assert [losses.fitting("dlr", classes) for classes in (2, 3, 4)] == ["margin", "dlr", "dlr"]
    assert [losses.fitting("dlr", classes, targeted=True) for classes in (2, 3, 4)] == [
        "margin",
        "margin",
        "dlr",
    ]
    assert losses.fitting("ce", 2, targeted=True) == "ce"


@pytest.mark.parametrize("name", losses.TARGETED)
def test_a_targeted_loss_climbs_towards_its_class(name):
    pair = torch.tensor([[0, 2]])
    rising = [torch.tensor([[2.0, 1.0, third, -2.0]]) for third in (-1.0, 0.0, 0.5)]
    values = [losses.get(name, targeted=True)(logits, pair).item() for logits in rising]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_a_goal_towards_a_class_has_won_wherever_the_prediction_is_wrong():
    y, wanted = torch.tensor([0, 0, 0]), torch.tensor([2, 2, 2])
    goal = Goal.towards(wanted, y, "margin")
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -3.0], [0.0, -1.0, 2.0]])
    assert goal.won(logits).tolist() == [False, True, True]
    assert goal.value(logits).tolist() == [-1.0, -3.0, 2.0]
    assert goal[torch.tensor([2])].value(logits[2:]).tolist() == [2.0]
    aimed = Goal.of(nn.Identity(), logits, wanted, "margin", targeted=True)  # y is the wanted class
    assert aimed.won(logits).tolist() == [False, False, True]
    assert aimed.value(logits).tolist() == [-1.0, -4.0, 2.0]


def test_kl_by_hand_and_zero_at_the_clean_image():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    torch.testing.assert_close(losses.kl(q.log(), p.log()), torch.tensor([expected]))
    torch.testing.assert_close(losses.kl(LOGITS, LOGITS), torch.zeros(2))


def test_a_class_that_is_ruled_out_has_no_part_in_kl():
    q = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    p = torch.tensor([[0.5, 0.25, -torch.inf]], requires_grad=True)
    kl = losses.kl(q, p)
    torch.testing.assert_close(kl, losses.kl(q[:, :2], p[:, :2]))
    for ends in torch.autograd.grad(kl.sum(), (q, p)):
        assert ends.isfinite().all()
    assert losses.kl(p.detach(), torch.zeros(1, 3)).item() == torch.inf, (
        "what the other network rules out, it is not"
    )


def test_label_smoothing_by_hand():
    log_p = LOGITS.log_softmax(1)
    expected = -(0.7 * log_p.gather(1, Y[:, None]).squeeze(1) + 0.3 / 3 * log_p.sum(1))
    torch.testing.assert_close(losses.smoothed_cross_entropy(LOGITS, Y, 0.3), expected)


def test_a_nan_is_wrong_whatever_the_label():
    nan = torch.tensor([[float("nan"), 0.0, 0.0]])
    assert all(bool(losses.is_wrong(nan, torch.tensor([y]))) for y in range(3))
    assert losses.is_wrong(LOGITS, Y).tolist() == [False, True]


def test_unknown_losses_are_refused():
    with pytest.raises(ConfigError, match="one of ce, margin, dlr, kl"):
        losses.get("mse")
    with pytest.raises(ConfigError, match="targeted loss: found 'kl', expected one of ce, margin, dlr"):
        losses.get("kl", targeted=True)
