"""Quantities and their bootstrap against values worked by hand, scipy, and repeated sampling."""

import math

import numpy as np
import pytest
from scipy import stats

from robustlens.stats import bootstrap
from robustlens.stats.bootstrap import (
    Bootstrap,
    Examples,
    Quantity,
    Unusable,
    difference,
    hull,
    identity,
    interval_of_median,
    interval_over_examples,
    interval_over_seeds,
    mean,
    ratio,
    relative_change,
    standard_deviation,
    wasserstein,
)
from robustlens.stats.intervals import Inference, Interval
from robustlens.stats.samples import weighted_std


def some(n: int, key: str = "images") -> Examples:
    return Examples(key, n)


def test_interval_of_the_median_is_of_order_statistics():
    six = interval_of_median(np.array([3, 1, 2, 6, 5, 4.0]))
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
    # Nine values: P(fewer than 2 below the median) = 10/512 = 0.0195, fewer than 3 would be 0.09.
    nine = interval_of_median(np.arange(1.0, 10.0))
    assert (nine.value, nine.low, nine.high) == (5.0, 2.0, 8.0)


def test_five_layers_are_too_few_for_an_interval():
    five = interval_of_median(np.arange(5.0))
    assert (five.low, five.high) == (None, None)


def test_wasserstein_distance_by_hand():
    # Sorted, 0 goes to 1 and 1 goes to 3: a mean move of 1.5.
    quantity = wasserstein((some(2), np.array([1.0, 0.0])), (some(2, "b"), np.array([3.0, 1.0])), Bootstrap())
    assert float(quantity.value()) == pytest.approx(1.5)


def test_quantities_of_a_resample_are_those_of_the_repeated_images():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(0.3, 2.0, size=80)
    layers = rng.normal(5.0, 1.0, size=(60, 3))
    wrong = rng.random(60) < 0.5
    boot = Bootstrap(resamples=20, seed=3)
    one, other = some(60), some(80, "others")
    w, v = boot.counts(one), boot.counts(other)
    assert w.sum(1).tolist() == [60] * 20
    assert v.sum(1).tolist() == [80] * 20
    average = boot.draws(mean(one, a))
    gap = boot.draws(difference((one, a), (other, b)))
    std = boot.draws(standard_deviation(one, a))
    distance = boot.draws(wasserstein((one, a), (other, b), boot))
    share = boot.draws(ratio(one, (wrong & (a > 0)).astype(float), wrong.astype(float)))
    spread = boot.draws(Quantity(lambda weights: weighted_std(weights, layers), (one,), ("x", "y", "z")))
    for row in range(20):
        picked, picked_b = np.repeat(np.arange(60), w[row]), np.repeat(b, v[row])
        assert average[row] == pytest.approx(a[picked].mean())
        assert gap[row] == pytest.approx(a[picked].mean() - picked_b.mean())
        assert std[row] == pytest.approx(a[picked].std())
        assert distance[row] == pytest.approx(stats.wasserstein_distance(a[picked], picked_b))
        assert share[row] == pytest.approx((a[picked] > 0)[wrong[picked]].mean())
        assert spread[row] == pytest.approx(layers[picked].std(0))


def test_draws_are_the_same_however_many_weights_are_kept(monkeypatch):
    """None, those of one set of images at a time, and all."""
    values = {n: np.random.default_rng(n).normal(size=n) for n in (60, 70, 80)}
    quantities = [mean(some(n, str(n)), values[n]) for n in (60, 70, 60, 80)]
    quantities += [difference((some(60, "60"), values[60]), (some(80, "80"), values[80]))]
    draws, sizes = {}, {}
    for kept in (0, 300 * 80 * 8, 1 << 30):
        monkeypatch.setattr(bootstrap, "_KEPT", kept)
        boot = Bootstrap(resamples=300)
        draws[kept] = [boot.draws(quantity) for quantity in quantities]
        sizes[kept] = [examples.n for examples in boot._weights]
    assert sizes == {0: [], 300 * 80 * 8: [80], 1 << 30: [60, 70, 80]}
    for other in draws.values():
        assert all(np.array_equal(one, again) for one, again in zip(draws[0], other, strict=True))


def test_images_at_other_places_of_a_split_are_other_images_whatever_their_order():
    sorted_, order = Examples.at("test", np.array([3, 5, 9]))
    assert order is None
    shuffled, order = Examples.at("test", np.array([9, 3, 5]))
    assert order is not None
    assert order.tolist() == [1, 2, 0]
    assert shuffled == sorted_
    assert sorted_ not in (
        Examples.at("train", np.array([3, 5, 9]))[0],
        Examples.at("test", np.array([3, 5, 8]))[0],
    )


def test_the_same_images_are_resampled_alike_and_others_apart():
    boot, again = Bootstrap(seed=5), Bootstrap(seed=5)
    assert np.array_equal(boot.counts(some(50)), again.counts(some(50)))
    assert not np.array_equal(boot.counts(some(50)), boot.counts(some(50, "other images")))


def test_relative_change_of_a_layer_that_was_zero():
    before, after = np.array([2.0, 0.0, 0.0, 4.0]), np.array([1.0, 0.0, 1.0, 0.0])
    assert relative_change(before, after) == pytest.approx([-0.5, 0.0, np.nan, -1.0], nan_ok=True)


def test_a_share_of_errors_without_errors_is_unusable():
    boot = Bootstrap(200)
    quantity = ratio(some(60), np.zeros(60), np.eye(60)[0])
    draws = boot.draws(quantity)
    assert np.isnan(draws).mean() == pytest.approx((59 / 60) ** 60, abs=0.1)
    with pytest.raises(Unusable, match="too few images"):
        interval_over_examples(0.0, draws)


def covers(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


def test_the_interval_over_examples_holds_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(2)
    covered = []
    for trial in range(600):
        # The second network loses each image that the first has right with probability 0.1.
        first = rng.random(150) < 0.85
        second = first & (rng.random(150) < 0.9)
        boot = Bootstrap(300, seed=trial)
        one, other = (mean(some(150), right.astype(float)) for right in (first, second))
        value = float(other.value() - one.value())
        covered.append(covers(interval_over_examples(value, boot.draws(other) - boot.draws(one)), -0.085))
    assert 0.92 <= np.mean(covered) <= 0.975


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (3, 0.1), (3, 0.03)])
def test_the_interval_over_seeds_holds_the_truth_in_95_of_100_studies(seeds, spread):
    rng = np.random.default_rng(3)
    covered = []
    for trial in range(400):
        boot = Bootstrap(200, seed=trial)
        images = rng.normal(0, 0.7, 100)  # shared by all seeds, as test images are
        effects = [
            mean(some(100), 1 + spread * rng.normal() + images + 0.2 * rng.normal(size=100))
            for _ in range(seeds)
        ]
        interval = interval_over_seeds(
            np.array([float(effect.value()) for effect in effects]),
            np.array([boot.draws(effect) for effect in effects]),
            identity,
            boot.generator("seeds"),
        )
        covered.append(covers(interval, 1.0))
    assert 0.915 <= np.mean(covered) <= 0.99


def test_where_only_seeds_vary_the_interval_is_students():
    values = np.array([0.1, 0.3, 0.2])
    draws = np.broadcast_to(values[:, None], (3, 20_000))
    interval = interval_over_seeds(values, draws, identity, np.random.default_rng(0))
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert interval.low == pytest.approx(0.2 - half, abs=0.005)
    assert interval.high == pytest.approx(0.2 + half, abs=0.005)


def test_where_seeds_and_images_vary_their_variances_add_up():
    # Two seeds: variance of the mean 0.1^2 from seeds, 0.1^2 from images, which both share. Satterthwaite's
    # degrees of freedom are 1 * (0.02 / 0.01)^2 = 4.
    images = np.random.default_rng(1).normal(0, 0.1, 50_000)
    images -= images.mean()
    values = np.array([0.1, 0.3])
    interval = interval_over_seeds(values, values[:, None] + images, identity, np.random.default_rng(0))
    half = stats.t.ppf(0.975, 4) * math.sqrt(0.02)
    assert interval.low == pytest.approx(0.2 - half, abs=0.01)
    assert interval.high == pytest.approx(0.2 + half, abs=0.01)


def test_where_seeds_agree_the_interval_is_the_one_over_examples():
    draws = np.random.default_rng(0).normal(0.2, 0.05, 20_000)
    interval = interval_over_seeds(
        np.full(3, 0.2), np.broadcast_to(draws, (3, 20_000)), identity, np.random.default_rng(0)
    )
    assert (interval.low, interval.high) == (pytest.approx(0.102, abs=0.005), pytest.approx(0.298, abs=0.005))


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("middle", [0.02, 0.1, 0.3, 1.0])
def test_the_p_value_of_seeds_is_that_of_the_interval_and_has_a_tail_of_their_number(middle, spread):
    images = np.random.default_rng(5).normal(0, 0.05, 4000)
    values = middle + spread * np.array([-1.0, 0.0, 1.0])
    interval = interval_over_seeds(values, values[:, None] + images, identity, np.random.default_rng(0))
    assert (interval.p <= 0.05) == (interval.low >= 0)
    # Far out, what the interval's half-width is of Student's quantile with two degrees of freedom.
    statistic = (interval.low + interval.high) / (interval.high - interval.low) * stats.t.ppf(0.975, 2)
    if interval.p < 0.05:
        assert interval.p == pytest.approx(2 * stats.t.sf(statistic, 2))
    else:
        assert interval.p >= 2 * stats.t.sf(statistic, 2) - 1e-12


def test_the_p_value_of_a_median_is_the_sign_tests_and_of_a_hull_the_larger():
    six, mixed = interval_of_median(np.arange(1.0, 7.0)), interval_of_median(np.array([-1.0, 1, 2, 3, 4, 5]))
    assert (six.p, mixed.p) == pytest.approx((2 / 64, 2 * 7 / 64))
    assert interval_of_median(np.arange(1.0, 6.0)).p is None
    both = hull(six, Inference(3.5, -1.0, 4.0, 0.2))
    assert (both.low, both.high, both.p) == (-1.0, 6.0, 0.2)
    assert hull(six, Inference(3.5)) == Inference(3.5)


def test_seeds_that_agree_exactly_give_a_point_and_no_warning():
    values = np.full(3, 0.2)
    draws = np.broadcast_to(values[:, None], (3, 100))
    interval = interval_over_seeds(values, draws, identity, np.random.default_rng(0))
    assert interval.low == pytest.approx(0.2)
    assert interval.high == pytest.approx(0.2)


def test_the_bias_of_a_distance_is_taken_off_twice():
    # A distance of two samples is too large by b, its draws by 2b; the middle of the interval is b below.
    draws = np.random.default_rng(0).normal(0.12, 0.01, 50_000)
    interval = interval_over_examples(0.11, draws)
    assert (interval.low + interval.high) / 2 == pytest.approx(0.10, abs=0.001)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.01, rel=0.03)


def test_the_floor_of_a_distance_is_what_shuffled_samples_reach():
    rng = np.random.default_rng(4)
    boot = Bootstrap()
    above = 0
    for trial in range(60):
        pair = [(some(80, f"{side}{trial}"), rng.normal(size=80)) for side in "ab"]
        quantity = wasserstein(*pair, boot)
        above += float(quantity.value()) > quantity.floor()
    assert above <= 8  # 3 expected; more than 8 has probability 0.004
