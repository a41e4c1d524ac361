"""Temperatures against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from robustlens.explain.margins import margins_of
from robustlens.explain.temperature import best_temperature, why_missing


def test_the_best_temperature_is_found_where_it_is_known():
    # One logit gap g for all, a share q right: the best T makes sigmoid(g / T) = q.
    logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)
    y = (torch.arange(100) >= 75).long()
    assert best_temperature(logits, y) == pytest.approx(2.0 / np.log(3), rel=1e-10)


def random_logits(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (n,), generator=generator)
    return 3 * torch.randn(n, 4, generator=generator).double() + 2 * F.one_hot(y, 4), y


def test_no_other_temperature_has_a_lower_loss():
    logits, y = random_logits()
    best = best_temperature(logits, y)
    loss = [float(F.cross_entropy(logits / (best * factor), y)) for factor in (0.99, 1.0, 1.01)]
    assert loss[1] < min(loss[0], loss[2])


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_a_factor_on_all_logits_goes_into_the_temperature_and_nowhere_else(scale):
    logits, y = random_logits()
    plain, scaled = best_temperature(logits, y), best_temperature(scale * logits, y)
    assert scaled == pytest.approx(scale * plain, rel=1e-9)
    one, other = margins_of(logits / plain, y), margins_of(scale * logits / scaled, y)
    for kind in one:
        np.testing.assert_allclose(one[kind], other[kind], atol=1e-6)


def test_where_there_is_no_best_there_is_none():
    """The ends of the range, e^-5 and e^5, are no temperatures: at the first everything is sure and flat."""
    right = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    for logits, y in (
        (right, [0, 1]),  # every image is right: the colder the better
        (right, [1, 0]),  # none is: the hotter the better
        (torch.zeros(2, 3), [0, 1]),  # every temperature is as good
        (right, [0, 0]),  # of one class half are right, and one is wrong by as much
    ):
        found = best_temperature(logits, torch.tensor(y))
        assert np.isnan(found) == (y != [0, 0])
        assert bool(why_missing(found)) == np.isnan(found)


@pytest.mark.parametrize(
    ("log_temperature", "found"), [(-5.1, False), (-4.9, True), (0.0, True), (4.9, True), (5.1, False)]
)
def test_temperatures_are_looked_for_from_e_to_the_minus_5_to_e_to_the_5(log_temperature, found):
    # One logit gap of T log 3 for all, three quarters right: T is the best.
    logits = torch.tensor([[np.exp(log_temperature) * np.log(3), 0.0]]).repeat(100, 1)
    best = best_temperature(logits, (torch.arange(100) >= 75).long())
    assert best == pytest.approx(np.exp(log_temperature) if found else np.nan, rel=1e-9, nan_ok=True)


def test_images_without_a_prediction_are_left_out_and_excluded_classes_are_not():
    logits, y = random_logits()
    best = best_temperature(logits, y)
    broken = torch.cat([logits, torch.tensor([[torch.nan, 0, 0, 0], [torch.inf, 0, 0, 0]]).double()])
    assert best_temperature(broken, torch.cat([y, y[:2]])) == best
    excluded = torch.cat([logits, torch.full((len(y), 1), -torch.inf).double()], dim=1)
    assert best_temperature(excluded, y) == pytest.approx(best, rel=1e-9)
    assert np.isnan(best_temperature(torch.full((3, 4), torch.nan), y[:3]))
