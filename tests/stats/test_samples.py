"""Ranks and the distance of two samples, against scipy.stats; weights, against images repeated."""

import math

import numpy as np
import pytest
from scipy import stats

from robustlens.stats.samples import (
    mean_ranks,
    wasserstein_distance,
    weighted_quantile,
    weighted_std,
    weighted_within_std,
)


@pytest.mark.parametrize("shape", [(1,), (2,), (50,), (7, 1), (7, 12), (3, 2, 9)])
def test_ranks_are_scipys_also_of_ties(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=shape), rng.integers(3, size=shape) / 2, np.zeros(shape)):
        assert np.array_equal(mean_ranks(values), stats.rankdata(values, axis=-1))


def test_ranks_of_rows_with_a_nan_are_nan_and_others_are_not() -> None:
    values = np.array([[2.0, np.nan, 1.0], [np.inf, -np.inf, 0.0]])
    ranks = mean_ranks(values)
    assert np.isnan(ranks[0]).all()
    assert ranks[1].tolist() == [3, 1, 2]


def test_no_values_have_no_ranks() -> None:
    assert mean_ranks(np.zeros(0)).shape == (0,)
    assert mean_ranks(np.zeros((3, 0))).shape == (3, 0)
    assert mean_ranks(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 30), (40, 40), (25, 64)])
def test_the_distance_is_scipys(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    for one, other in (
        (rng.normal(size=n), rng.normal(1, 2, size=m)),
        (rng.integers(4, size=n) / 4, rng.integers(4, size=m) / 4),
        (rng.normal(size=n).astype(np.float32), rng.normal(size=m).astype(np.float32)),
    ):
        assert wasserstein_distance(one, other) == pytest.approx(stats.wasserstein_distance(one, other))
        assert wasserstein_distance(other, one) == pytest.approx(wasserstein_distance(one, other))
        assert wasserstein_distance(one, one + 3) == pytest.approx(3)


def test_there_is_no_distance_to_nothing_and_of_what_is_not_finite() -> None:
    one = np.array([0.0, 1.0])
    assert np.isnan(wasserstein_distance(one, np.zeros(0)))
    assert np.isnan(wasserstein_distance(np.zeros(0), np.zeros(0)))
    assert np.isnan(wasserstein_distance(one, np.array([np.inf])))


def test_a_weighted_spread_within_groups_is_that_of_the_images_repeated() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=(40, 3)) + 5, rng.integers(4, size=40)
    counts = rng.integers(3, size=(2, 40))
    weights = counts / counts.sum(1, keepdims=True)
    found = weighted_within_std(weights, values, groups)
    for row, count in enumerate(counts):
        repeated, of = np.repeat(values, count, axis=0), np.repeat(groups, count)
        centred = repeated - np.array([repeated[of == group].mean(0) for group in of])
        np.testing.assert_allclose(found[row], np.sqrt(np.mean(centred**2, axis=0)))
    np.testing.assert_allclose(weighted_within_std(weights, values[:, 0], groups), found[:, 0])
    # One group is the plain spread; groups of one image each leave none.
    np.testing.assert_allclose(
        weighted_within_std(weights, values, np.zeros(40)), weighted_std(weights, values)
    )
    np.testing.assert_allclose(weighted_within_std(weights, values, np.arange(40)), 0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 19, 20, 40, 401])
def test_a_weighted_quantile_is_that_of_the_images_repeated(n: int) -> None:
    values = np.random.default_rng(n).permutation(np.arange(float(n)))
    equal = np.full((1, n), 1 / n)
    assert weighted_quantile(equal, values, 0.95).tolist() == [math.ceil(round(0.95 * n, 9)) - 1]
    counts = np.random.default_rng(1).multinomial(n, [1 / n] * n, size=5)
    expected = [np.quantile(np.repeat(values, row), 0.95, method="inverted_cdf") for row in counts]
    np.testing.assert_array_equal(weighted_quantile(counts / n, values, 0.95), expected)
