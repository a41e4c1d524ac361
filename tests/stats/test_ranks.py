"""Rank correlations and exact small-sample tests against values worked by hand, scipy, and repeated sampling."""

import math

import numpy as np
import pytest
from scipy import stats

from robustlens.stats import ranks
from robustlens.stats.ranks import (
    interval_of_mean_correlation,
    partial_spearman,
    partial_spearman_interval,
    partial_spearman_p,
    share_interval,
    sign_test_p,
    spearman,
    spearman_interval,
    spearman_p,
)

RNG = np.random.default_rng(0)
ONE_BLOCK = np.zeros(4, dtype=np.int64)


def test_spearman_of_four_strengths_by_hand():
    # Ranks of y are 4 2 3 1, so the squared rank differences are 9 0 0 9 and rho = 1 - 6 * 18 / (4 * 15).
    rho = spearman(np.array([0, 0.1, 0.2, 0.3]), np.array([9.0, 5.0, 6.0, 1.0]))
    assert rho == pytest.approx(-0.8)


def test_spearman_with_ties_is_scipys():
    x, y = np.array([0, 0, 1, 1, 2, 2.0]), np.array([5, 4, 4, 2, 2, 1.0])
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_of_equal_values_is_no_number():
    assert spearman(np.arange(4.0), np.ones(4)) is None


def test_permutation_p_of_a_perfect_order_by_counting():
    # Of 4! orders, the rising and the falling one are as extreme.
    x = np.arange(4.0)
    assert spearman_p(x, -x, ONE_BLOCK, RNG) == pytest.approx(2 / 24)
    # |rho| >= 0.8 in 8 of 24: rho 1, the three orders with one swap of neighbours, and their mirror images.
    assert spearman_p(x, np.array([1, 2, 4, 3.0]), ONE_BLOCK, RNG) == pytest.approx(8 / 24)


def test_four_points_are_the_fewest_of_which_ranks_say_anything():
    # Of three, every third order is a perfect one.
    assert spearman_p(np.arange(3.0), np.arange(3.0), ONE_BLOCK[:3], RNG) == pytest.approx(2 / 6)
    assert ranks.LEAST_POINTS == 4


def test_permutations_stay_within_a_seed():
    x, y = np.array([0, 1, 2, 0, 1, 2.0]), np.array([5, 3, 1, 6, 4, 2.0])
    blocks = np.array([0, 0, 0, 1, 1, 1])
    # 3! * 3! = 36 orders; only the observed one and its mirror image go so far.
    assert spearman_p(x, y, blocks, RNG) == pytest.approx(2 / 36)


def test_sampled_permutations_agree_with_enumeration(monkeypatch):
    x, y = np.arange(6.0), np.array([1, 3, 2, 6, 4, 5.0])
    blocks = np.zeros(6, dtype=np.int64)
    exact = spearman_p(x, y, blocks, RNG)
    monkeypatch.setattr(ranks, "_ENUMERATED", 1)
    assert spearman_p(x, y, blocks, RNG) == pytest.approx(exact, abs=0.01)


def test_interval_of_a_rank_correlation_is_the_published_example():
    # ci.spear of the R package statpsych, by the author of the formula.
    y = np.array([21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19.0])
    x = np.array([67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51.0])
    rho = spearman(x, y)
    assert rho == pytest.approx(0.8699639)
    interval = spearman_interval(rho, 15)
    assert (interval.low, interval.high) == (pytest.approx(0.5840951), pytest.approx(0.9638297))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_interval_of_a_rank_correlation_agrees_with_the_exact_test(n):
    x = np.arange(float(n))
    blocks = np.zeros(n, dtype=np.int64)
    orders = [np.random.default_rng(k).permutation(n).astype(float) for k in range(60)] + [x, -x]
    for y in orders:
        interval = spearman_interval(spearman(x, y), n)
        assert (interval.low > 0 or interval.high < 0) == (spearman_p(x, y, blocks, RNG) <= 0.05)


def test_share_interval_by_hand_and_by_scipy():
    assert share_interval(6, 6) == (pytest.approx(0.025 ** (1 / 6)), 1.0)
    assert share_interval(0, 6) == (0.0, pytest.approx(1 - 0.025 ** (1 / 6)))
    exact = stats.binomtest(7, 9).proportion_ci(method="exact")
    assert share_interval(7, 9) == pytest.approx((exact.low, exact.high))


def test_sign_test_by_counting():
    assert sign_test_p(6, 0) == pytest.approx(2 / 64)
    assert sign_test_p(1, 5) == pytest.approx(2 * 7 / 64)
    assert sign_test_p(0, 0) == 1.0


@pytest.mark.parametrize(("units", "points"), [(2, 4), (3, 4), (8, 4), (3, 8)])
def test_correlations_by_chance_alone_rarely_exclude_zero(units, points):
    rng = np.random.default_rng(4)
    out, ranks = 0, np.arange(points, dtype=float)
    for _ in range(2000):
        rhos = np.array([spearman(ranks, rng.permutation(ranks)) for _ in range(units)])
        interval = interval_of_mean_correlation(rhos, points, runs=units)
        assert -1 <= interval.low <= interval.value <= interval.high <= 1
        out += interval.low > 0 or interval.high < 0
    assert out / 2000 <= 0.055


def test_the_interval_of_a_mean_correlation_is_students_unless_chance_is_wider():
    rhos = np.array([0.2, 0.6, 0.4])
    half = stats.t.ppf(0.975, 2) * 0.2 / math.sqrt(3)
    interval = interval_of_mean_correlation(rhos, 100, runs=30)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    alike = interval_of_mean_correlation(np.array([0.8, 0.8]), 5, runs=4)
    assert (alike.low, alike.high) == pytest.approx((0.8 - 1.96 / math.sqrt(4 * 4), 1.0), abs=1e-3)


def test_the_p_value_of_a_rank_correlation_is_that_of_its_z_and_of_the_nearest_to_a_perfect_order():
    z, error = math.atanh(0.6), math.sqrt((1 + 0.6**2 / 2) / 7)
    assert spearman_interval(0.6, 10).p == pytest.approx(2 * stats.norm.sf(z / error))
    assert spearman_interval(-0.6, 10).p == pytest.approx(2 * stats.norm.sf(z / error))
    # Of five ranks the largest correlation below 1 is 0.9; half-way is 0.95.
    z, error = math.atanh(0.95), math.sqrt((1 + 0.95**2 / 2) / 2)
    perfect = spearman_interval(1.0, 5)
    low = math.tanh(z - 1.959964 * error)
    assert (perfect.low, perfect.high, perfect.p) == pytest.approx((low, 1.0, 2 * stats.norm.sf(z / error)))
    assert spearman_interval(-1.0, 5).high == pytest.approx(-low)
    assert spearman_interval(0.5, 3) == ranks.Inference(0.5)


def test_the_p_value_of_a_mean_correlation_is_the_larger_of_students_and_of_chance():
    rhos = np.array([0.2, 0.6, 0.4])
    assert interval_of_mean_correlation(rhos, 100, runs=30).p == pytest.approx(
        stats.ttest_1samp(rhos, 0).pvalue
    )
    near = np.array([0.41, 0.39, 0.4])  # of which Student alone would be sure; chance has 1 / (4 * 3)
    chance = 2 * stats.norm.sf(0.4 * math.sqrt(12))
    assert interval_of_mean_correlation(near, 5, runs=3).p == pytest.approx(chance)
    assert interval_of_mean_correlation(np.array([0.4, 0.4, 0.4]), 5, runs=3).p == pytest.approx(chance)


def test_a_sampled_permutation_test_counts_the_observed_order_once(monkeypatch):
    monkeypatch.setattr(ranks, "_ENUMERATED", 1)
    x = np.arange(12.0)
    # No random order of twelve is as far as a perfect one: 1 of 20,000.
    assert spearman_p(x, -x, np.zeros(12, dtype=np.int64), np.random.default_rng(0)) == pytest.approx(
        1 / 20_000
    )


def test_ranks_within_strata_forget_what_differs_between_them():
    rng = np.random.default_rng(3)
    strata = np.repeat(np.arange(5), 6)
    own_x, own_y = rng.normal(size=(2, 30))
    x, y = own_x + 100 * strata, own_y - 100 * strata
    centred = [
        np.concatenate([stats.rankdata(values[strata == each]) - 3.5 for each in range(5)])
        for values in (x, y)
    ]
    assert partial_spearman(x, y, strata) == pytest.approx(np.corrcoef(*centred)[0, 1])
    assert partial_spearman(x, y, strata) == partial_spearman(own_x, own_y, strata)
    assert partial_spearman(own_x, own_y, 0 * strata) == pytest.approx(
        stats.spearmanr(own_x, own_y).statistic
    )
    assert partial_spearman(x, np.array(strata, float), strata) is None


def test_values_change_places_within_strata():
    strata = np.array([0, 0, 0, 1, 1, 1])
    x, y = np.array([1, 2, 3, 1, 2, 3.0]), np.array([7, 8, 9, 1, 2, 3.0])
    # Of (3!)^2 arrangements 2 are as far from none.
    assert partial_spearman_p(x, y, strata, RNG) == pytest.approx(2 / 36)
    assert partial_spearman_p(x, y, 0 * strata, RNG) == pytest.approx(spearman_p(x, y, 0 * strata, RNG))


def test_each_further_stratum_costs_the_interval_a_point():
    assert partial_spearman_interval(0.6, 12, 3) == spearman_interval(0.6, 10)
    assert partial_spearman_interval(0.6, 12, 1) == spearman_interval(0.6, 12)
