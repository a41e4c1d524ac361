"""Ranks and the distance of two samples, against scipy.stats."""

import numpy as np
import pytest
from scipy import stats

from robustlens.stats.samples import mean_ranks, wasserstein_distance


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
