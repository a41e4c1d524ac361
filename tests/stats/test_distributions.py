"""Quantiles and tails against scipy.stats, and against values worked by hand."""

import numpy as np
import pytest
from scipy import stats

from robustlens.stats import distributions

PROBABILITIES = (1e-12, 1e-6, 0.025, 0.3, 0.5, 0.975, 1 - 1e-9)
FREEDOM = (0.5, 1, 2, 2.7, 30, 1e6)


def same(found: float, wanted: float) -> None:
    assert isinstance(found, float)
    assert found == pytest.approx(wanted, rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_quantiles_are_scipys(p: float) -> None:
    same(distributions.normal_quantile(p), stats.norm.ppf(p))
    for freedom in FREEDOM:
        same(distributions.student_quantile(p, freedom), stats.t.ppf(p, freedom))
    for a, b in ((1, 1), (1, 40), (17, 3), (0.5, 900)):
        same(distributions.beta_quantile(p, a, b), stats.beta.ppf(p, a, b))


@pytest.mark.parametrize("at", [-40.0, -2.0, 0.0, 0.7, 3.0, 40.0, np.inf])
def test_tails_are_scipys(at: float) -> None:
    same(distributions.normal_tail(at), stats.norm.sf(at))
    for freedom in FREEDOM:
        same(distributions.student_tail(at, freedom), stats.t.sf(at, freedom))


@pytest.mark.parametrize("tosses", [0, 1, 2, 6, 21, 400, 2000])
def test_heads_of_a_fair_coin_are_scipys_binomial(tosses: int) -> None:
    probabilities = distributions.at_most_heads(tosses)
    expected = stats.binom.cdf(np.arange(tosses + 1), tosses, 0.5)
    assert probabilities == pytest.approx(expected, rel=1e-10)
    assert probabilities[0] == 0.5**tosses
    assert probabilities[-1] == 1


def test_heads_of_a_fair_coin_are_rounded_once() -> None:
    assert (64 * distributions.at_most_heads(6)).tolist() == [1, 7, 22, 42, 57, 63, 64]
