"""Surrogate losses against values worked out by hand."""

import math

import pytest
import torch

from robustlens import losses
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


def test_dlr_does_not_change_with_shift_and_scale():
    torch.testing.assert_close(losses.dlr(LOGITS * 7 + 3, Y), losses.dlr(LOGITS, Y))


def test_dlr_below_three_classes_is_refused():
    with pytest.raises(ConfigError, match="at least 3 classes"):
        losses.dlr(LOGITS[:, :2], torch.tensor([0, 1]))


def test_kl_by_hand_and_zero_at_the_clean_image():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    torch.testing.assert_close(losses.kl(q.log(), p.log()), torch.tensor([expected]))
    torch.testing.assert_close(losses.kl(LOGITS, LOGITS), torch.zeros(2))


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
