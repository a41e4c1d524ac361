"""Optimality of distance curves: by hand, against areas under drawn curves, and where there is nothing to compare."""

import math

import numpy as np
import pytest

from robustlens.errors import DataError
from robustlens.stats import optimality
from robustlens.stats.bootstrap import Bootstrap

BEST = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], 1.0),
        ([0.0, np.inf, np.inf, np.inf, np.inf], 0.0),
        ([0.0, 4.0, 9.0, 4.0, 5.0], 0.0),  # all at D or beyond
        ([0.0, 2.0, 2.0, 3.0, 4.0], 5 / 6),  # the areas above the envelope are 3, 2, 1 and 0
        ([0.0, 1.0, 2.0, 3.0, np.inf], 1.0),  # beyond D nothing is asked
        ([0.0, 1.5, 2.5, 3.5, 4.5], 0.75),
        ([0.0, 1.0, np.inf, 3.0, 4.0], 2 / 3),
    ],
)
def test_two_curves_by_hand(distances, expected):
    assert optimality.local_optimality(np.array(distances), BEST) == pytest.approx(expected, abs=1e-15)


def test_it_is_the_area_between_drawn_curves():
    """Against rectangles under the curves on a fine grid."""
    rng = np.random.default_rng(0)
    best = np.where(rng.random(60) < 0.2, 0.0, rng.gamma(3, size=60))
    distances = best * (1 + rng.exponential(0.3, 60))
    distances[rng.random(60) < 0.1] = np.inf
    distances[best == 0] = 0
    width = best.max() / 200_000
    middles = (np.arange(200_000) + 0.5) * width
    envelope, curve = (
        sum(float((each > part[:, None]).mean(1).sum()) for part in np.split(middles, 20)) * width
        for each in (best, distances)
    )
    clean = float((best > 0).mean()) * best.max()
    expected = 1 - (curve - envelope) / (clean - envelope)
    assert optimality.local_optimality(distances, best) == pytest.approx(expected, abs=1e-5)


def test_the_envelope_and_the_curves():
    one, other = np.array([0.0, 3.0, np.inf]), np.array([0.0, np.inf, 2.0])
    best = optimality.nearest([one, other])
    assert best.tolist() == [0.0, 3.0, 2.0]
    radii = np.array([0.0, 1.99, 2.0, 3.0])
    assert optimality.robust_accuracy(best, radii).tolist() == [2 / 3, 2 / 3, 1 / 3, 0.0]
    assert optimality.robust_accuracy(one, radii).tolist() == [2 / 3, 2 / 3, 2 / 3, 1 / 3]


def test_images_that_no_attack_broke_count_for_none():
    best, distances = np.append(BEST, np.inf), np.array([0.0, 2.0, 2.0, 3.0, 4.0, np.inf])
    assert optimality.local_optimality(distances, best) == pytest.approx(1 - 1 / 6)


def test_global_optimality_is_the_mean_over_models_with_an_interval_over_images():
    rng = np.random.default_rng(1)
    best = rng.gamma(3, size=400)
    models = [(best * factor, best) for factor in (1.0, 1.1)]
    local = optimality.local_optimality(*models[1])
    interval = optimality.optimality_interval(models, Bootstrap(500))
    assert interval.value == optimality.global_optimality(models) == (1 + local) / 2
    assert interval.low < interval.value < interval.high <= 1
    excess, span = np.minimum(0.1 * best, best.max() - best), best.max() - best
    influence = (excess - (1 - local) * span) / span.mean()  # delta method of a ratio of means
    error = influence.std() / 400**0.5 / 2
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    alone = optimality.optimality_interval([(best, best)], Bootstrap(50))
    assert (alone.value, alone.low, alone.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("distances", "best", "said"),
    [
        ([1.0, 2.0], [1.0], "one of each an image"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one of each an image"),
        ([1.0, math.nan], [1.0, 2.0], "negative or NaN"),
        ([-1.0, 2.0], [-1.0, 2.0], "negative or NaN"),
        ([1.0, 2.0], [1.0, 2.5], "image 1, best 2.5"),
        ([1.0, 2.0], [0.0, 2.0], "the same errors"),
        ([1.0, 1.0], [1.0, 1.0], "below the largest"),
        ([0.0, 0.0], [0.0, 0.0], "below the largest"),
        ([np.inf], [np.inf], "below the largest"),
        ([], [], "below the largest"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(distances, best, said):
    with pytest.raises(DataError, match=said) as caught:
        optimality.local_optimality(np.array(distances), np.array(best))
    assert "\n" not in str(caught.value)


def test_models_of_other_images_or_none_are_refused():
    with pytest.raises(DataError, match="no model"):
        optimality.global_optimality([])
    with pytest.raises(DataError, match="same ones for every model"):
        optimality.optimality_interval([(BEST, BEST), (BEST[1:], BEST[1:])], Bootstrap(10))
