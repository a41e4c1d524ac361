"""Paired counts and differences, against the closed form, a brute-force likelihood and McNemar's test."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from robustlens.stats.paired import PairedCounts, mean_difference

Z = 1.959963984540054


def score(counts: PairedCounts, delta: float) -> float:
    """Score statistic of a true difference, its nuisance share found by maximising the likelihood itself."""
    n, a, b = counts.n, counts.only_a, counts.only_b

    def loss(share: float) -> float:
        parts = ((a, share), (b, share + delta), (n - a - b, 1 - 2 * share - delta))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    share = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (b - a - n * delta) / math.sqrt(n * (2 * share + delta - delta**2))


@pytest.mark.parametrize(
    "counts",
    [
        PairedCounts(both=43, only_a=0, only_b=1, neither=0),
        PairedCounts(both=20, only_a=12, only_b=2, neither=2),
        PairedCounts(both=500, only_a=40, only_b=90, neither=370),
        PairedCounts(both=0, only_a=3, only_b=7, neither=0),
    ],
)
def test_the_ends_of_the_interval_are_where_the_score_test_rejects(counts: PairedCounts) -> None:
    interval = counts.difference()
    assert interval.low is not None
    assert interval.high is not None
    assert score(counts, interval.low) == pytest.approx(Z, abs=1e-4)
    assert score(counts, interval.high) == pytest.approx(-Z, abs=1e-4)


def test_networks_that_agree_on_every_image_have_the_closed_form() -> None:
    """With no image apart the score test gives +-z^2 / (n + z^2): 3.8415 / 103.8415 for 100 images."""
    interval = PairedCounts(both=70, only_a=0, only_b=0, neither=30).difference()
    assert interval.value == 0
    assert interval.low == pytest.approx(-0.036994, abs=1e-6)
    assert interval.high == pytest.approx(0.036994, abs=1e-6)
    assert interval.p == 1


def test_a_hand_computed_case() -> None:
    """10 images only a, 30 only b, of 200: difference 0.1, McNemar's (30 - 10)^2 / 40 = 10."""
    interval = PairedCounts(both=100, only_a=10, only_b=30, neither=60).difference()
    assert interval.value == pytest.approx(0.1)
    assert interval.p == pytest.approx(float(chi2.sf(10, 1)), rel=1e-9)
    # Wald's interval, 0.1 +- 1.96 sqrt(40 - 400 / 200) / 200, lies near.
    assert interval.low == pytest.approx(0.0396, abs=0.004)
    assert interval.high == pytest.approx(0.1604, abs=0.004)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 3), (0, 4), (10, 22), (10, 23), (5, 14), (5, 15)])
def test_zero_lies_outside_exactly_where_p_is_below_the_level(only_a: int, only_b: int) -> None:
    interval = PairedCounts(50, only_a, only_b, 50).difference()
    assert interval.low is not None
    assert interval.p is not None
    assert (interval.low > 0) == (interval.p < 0.05)


@pytest.mark.parametrize(("only_a", "only_b", "ends"), [(0, 8, (None, 1.0)), (8, 0, (-1.0, None))])
def test_ends_stay_within_one(only_a: int, only_b: int, ends: tuple[float | None, float | None]) -> None:
    interval = PairedCounts(0, only_a, only_b, 0).difference()
    for found, expected in zip((interval.low, interval.high), ends, strict=True):
        assert found is not None
        assert -1 <= found <= 1
        if expected is not None:
            assert found == pytest.approx(expected, abs=1e-6)


def test_swapped_networks_have_the_mirrored_interval() -> None:
    one, other = PairedCounts(5, 3, 9, 2).difference(), PairedCounts(5, 9, 3, 2).difference()
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))  # type: ignore[operator]


def test_the_mean_of_paired_differences() -> None:
    """Changes 1, 2, 3: mean 2, standard error 1 / sqrt(3) = 0.57735."""
    change = mean_difference(np.array([1.0, 1.0, 1.0]), np.array([2.0, 3.0, 4.0]))
    assert change.value == 2
    assert (change.low, change.high) == pytest.approx((2 - Z * 0.577350269, 2 + Z * 0.577350269))
    assert change.p == pytest.approx(math.erfc(2 / 0.577350269 / math.sqrt(2)))
    assert mean_difference(np.ones(1), np.zeros(1)).low is None
    assert mean_difference(np.ones(4), np.ones(4)).p == 1
