"""Intervals: by hand, and as often right as they say."""

import math

import numpy as np
import pytest

from robustlens.stats.intervals import (
    Interval,
    difference,
    flushed,
    mean_of,
    over_seeds,
    rounded,
    wilson,
)
from robustlens.stats.ranks import interval_of_mean_correlation, spearman_interval


def test_wilson_by_hand():
    found = wilson(0, 10)
    assert (found.value, found.low) == pytest.approx((0.0, 0.0))
    assert found.high == pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-5)  # z^2 / (n + z^2) at k = 0
    mirrored = wilson(10, 10)
    assert mirrored.low == pytest.approx(1 - found.high)


def test_wilson_covers_at_its_rate():
    generator = np.random.default_rng(0)
    for p in (0.05, 0.3, 0.9):
        intervals = [wilson(int(count), 80) for count in generator.binomial(80, p, 2000)]
        inside = [interval.low <= p <= interval.high for interval in intervals]
        assert 0.92 < sum(inside) / len(inside) < 0.98


def test_differences_by_hand():
    # Newcombe 1998, table II(a): 56/70 against 48/80, method 10 gives 0.0524 to 0.3339.
    found = difference(wilson(56, 70), wilson(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_mean_interval_by_hand():
    found = mean_of(np.array([1.0, 2.0, 3.0, 6.0]))
    half = 1.959964 * math.sqrt(14 / 3) / 2
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert mean_of(np.array([1.0])) == Interval(1.0)
    assert difference(Interval(3.0), found) == Interval(0.0)


def test_one_seed_keeps_its_interval_two_have_the_hull_of_theirs_three_students_interval():
    assert over_seeds([Interval(0.5, 0.4, 0.6), None]) == Interval(0.5, 0.4, 0.6)
    two = over_seeds([Interval(0.25, 0.125, 0.5), Interval(0.75, 0.5, 0.875)])
    assert two == Interval(0.5, 0.125, 0.875)
    assert over_seeds([Interval(0.25), Interval(0.75)]) == Interval(0.5)
    assert over_seeds([Interval(0.25), Interval(0.75, 0.5, 1.0)]) == Interval(0.5)
    three = over_seeds([Interval(0.1), Interval(0.2), Interval(0.3)])
    assert three.value == pytest.approx(0.2)
    # Student's quantile with two degrees of freedom is 4.302653; the standard error is 0.1 / sqrt(3).
    assert three.low == pytest.approx(0.2 - 4.302652730 * 0.1 / math.sqrt(3), abs=1e-9)
    assert over_seeds([None]) is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("right", [0, 17, 60])
def test_more_seeds_on_the_same_images_look_no_more_certain_than_one(seeds, right):
    one = wilson(right, 60)
    same = over_seeds([one] * seeds)
    assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high))
    almost = over_seeds([wilson(right, 60), *[wilson(abs(right - 1), 60)] * (seeds - 1)])
    assert almost.high - almost.low > 0.95 * (one.high - one.low)


def test_seeds_that_differ_have_students_interval_however_sure_each_is():
    apart = over_seeds([wilson(k, 1000) for k in (100, 500, 900)])
    assert apart.high - apart.low == pytest.approx(2 * 4.302652730 * 0.4 / math.sqrt(3), abs=1e-9)


def test_p_values_are_005_at_the_ends_of_their_intervals():
    for rho, n in ((0.8, 6), (0.6, 10), (-0.75, 8), (0.2, 30)):
        interval = spearman_interval(rho, n)
        assert (interval.p < 0.05) == (interval.low > 0 or interval.high < 0)
    for rhos in ([0.5, 0.6, 0.9], [-0.2, 0.6, 0.9], [1.0, 1.0, 1.0]):
        interval = interval_of_mean_correlation(np.array(rhos), 5, runs=3)
        assert (interval.p < 0.05) == (interval.low > 0)


@pytest.mark.parametrize(
    ("number", "shown"), [(-1.11e-16, 0.0), (1.11e-16, 1.11e-16), (-1e-3, -1e-3), (0.0, 0.0)]
)
def test_differences_of_equal_numbers_are_zero(number, shown):
    assert flushed(number) == shown
    assert math.copysign(1, flushed(number)) == math.copysign(1, shown)
    assert rounded(number * 1e9, 1e9 * 0.5) == (0.0 if abs(number) < 1e-9 else number * 1e9)
