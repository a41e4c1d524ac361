"""The statistics of claims against values worked by hand, scipy, and repeated sampling."""

import math

import numpy as np
import pytest
from scipy import stats

from robustlens.claims.verdict import Unusable
from robustlens.stats import bootstrap as st

RNG = np.random.default_rng(0)
ONE_BLOCK = np.zeros(4, dtype=np.int64)


def some(n: int, key: str = "images") -> st.Examples:
    return st.Examples(key, n)


# -- trend ---------------------------------------------------------------------------------------------


def test_spearman_of_four_strengths_by_hand():
    # Ranks of y are 4 2 3 1, so the squared rank differences are 9 0 0 9 and rho = 1 - 6 * 18 / (4 * 15).
    rho = st.spearman(np.array([0, 0.1, 0.2, 0.3]), np.array([9.0, 5.0, 6.0, 1.0]))
    assert rho == pytest.approx(-0.8)


def test_spearman_with_ties_is_scipys():
    x, y = np.array([0, 0, 1, 1, 2, 2.0]), np.array([5, 4, 4, 2, 2, 1.0])
    assert st.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_of_equal_values_is_no_number():
    assert st.spearman(np.arange(4.0), np.ones(4)) is None


def test_permutation_p_of_a_perfect_order_by_counting():
    # Of 4! orders, the rising and the falling one are as extreme.
    x = np.arange(4.0)
    assert st.spearman_p(x, -x, ONE_BLOCK, RNG) == pytest.approx(2 / 24)
    # |rho| >= 0.8 in 8 of 24: rho 1, the three orders with one swap of neighbours, and their mirror images.
    assert st.spearman_p(x, np.array([1, 2, 4, 3.0]), ONE_BLOCK, RNG) == pytest.approx(8 / 24)


def test_permutations_stay_within_a_seed():
    x, y = np.array([0, 1, 2, 0, 1, 2.0]), np.array([5, 3, 1, 6, 4, 2.0])
    blocks = np.array([0, 0, 0, 1, 1, 1])
    # 3! * 3! = 36 orders; only the observed one and its mirror image go so far.
    assert st.spearman_p(x, y, blocks, RNG) == pytest.approx(2 / 36)


def test_sampled_permutations_agree_with_enumeration(monkeypatch):
    x, y = np.arange(6.0), np.array([1, 3, 2, 6, 4, 5.0])
    blocks = np.zeros(6, dtype=np.int64)
    exact = st.spearman_p(x, y, blocks, RNG)
    monkeypatch.setattr(st, "_ENUMERATED", 1)
    assert st.spearman_p(x, y, blocks, RNG) == pytest.approx(exact, abs=0.01)


def test_interval_of_a_rank_correlation_is_the_published_example():
    # ci.spear of the R package statpsych, by the author of the formula.
    y = np.array([21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19.0])
    x = np.array([67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51.0])
    rho = st.spearman(x, y)
    assert rho == pytest.approx(0.8699639)
    found = st.spearman_interval(rho, 15)
    assert (found.low, found.high) == (pytest.approx(0.5840951), pytest.approx(0.9638297))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_interval_of_a_rank_correlation_agrees_with_the_exact_test(n):
    x = np.arange(float(n))
    blocks = np.zeros(n, dtype=np.int64)
    orders = [np.random.default_rng(k).permutation(n).astype(float) for k in range(60)] + [x, -x]
    for y in orders:
        found = st.spearman_interval(st.spearman(x, y), n)
        assert (found.low > 0 or found.high < 0) == (st.spearman_p(x, y, blocks, RNG) <= 0.05)


def test_share_interval_by_hand_and_by_scipy():
    assert st.share_interval(6, 6) == (pytest.approx(0.025 ** (1 / 6)), 1.0)
    assert st.share_interval(0, 6) == (0.0, pytest.approx(1 - 0.025 ** (1 / 6)))
    exact = stats.binomtest(7, 9).proportion_ci(method="exact")
    assert st.share_interval(7, 9) == pytest.approx((exact.low, exact.high))


def test_sign_test_by_counting():
    assert st.sign_test_p(6, 0) == pytest.approx(2 / 64)
    assert st.sign_test_p(1, 5) == pytest.approx(2 * 7 / 64)
    assert st.sign_test_p(0, 0) == 1.0


def test_interval_of_the_median_is_of_order_statistics():
    six = st.interval_of_median(np.array([3, 1, 2, 6, 5, 4.0]))
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
    # Nine values: P(fewer than 2 below the median) = 10/512 = 0.0195, fewer than 3 would be 0.09.
    nine = st.interval_of_median(np.arange(1.0, 10.0))
    assert (nine.value, nine.low, nine.high) == (5.0, 2.0, 8.0)


def test_five_layers_are_too_few_for_an_interval():
    five = st.interval_of_median(np.arange(5.0))
    assert (five.low, five.high) == (None, None)


# -- quantities ----------------------------------------------------------------------------------------


def test_wasserstein_distance_by_hand():
    # Sorted, 0 goes to 1 and 1 goes to 3: a mean move of 1.5.
    quantity = st.wasserstein(
        (some(2), np.array([1.0, 0.0])), (some(2, "b"), np.array([3.0, 1.0])), st.Bootstrap()
    )
    assert float(quantity.value()) == pytest.approx(1.5)


def test_quantities_of_a_resample_are_those_of_the_repeated_images():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(0.3, 2.0, size=80)
    layers = rng.normal(5.0, 1.0, size=(60, 3))
    wrong = rng.random(60) < 0.5
    boot = st.Bootstrap(resamples=20, seed=3)
    one, other = some(60), some(80, "others")
    w, v = boot.counts(one), boot.counts(other)
    assert w.sum(1).tolist() == [60] * 20
    assert v.sum(1).tolist() == [80] * 20
    mean = boot.draws(st.mean(one, a))
    gap = boot.draws(st.difference((one, a), (other, b)))
    std = boot.draws(st.standard_deviation(one, a))
    distance = boot.draws(st.wasserstein((one, a), (other, b), boot))
    share = boot.draws(st.ratio(one, (wrong & (a > 0)).astype(float), wrong.astype(float)))
    spread = boot.draws(
        st.Quantity(lambda weights: st.weighted_std(weights, layers), (one,), ("x", "y", "z"))
    )
    for row in range(20):
        picked, picked_b = np.repeat(np.arange(60), w[row]), np.repeat(b, v[row])
        assert mean[row] == pytest.approx(a[picked].mean())
        assert gap[row] == pytest.approx(a[picked].mean() - picked_b.mean())
        assert std[row] == pytest.approx(a[picked].std())
        assert distance[row] == pytest.approx(stats.wasserstein_distance(a[picked], picked_b))
        assert share[row] == pytest.approx((a[picked] > 0)[wrong[picked]].mean())
        assert spread[row] == pytest.approx(layers[picked].std(0))


def test_the_same_images_are_resampled_alike_and_others_apart():
    boot, again = st.Bootstrap(seed=5), st.Bootstrap(seed=5)
    assert np.array_equal(boot.counts(some(50)), again.counts(some(50)))
    assert not np.array_equal(boot.counts(some(50)), boot.counts(some(50, "other images")))


def test_relative_change_of_a_layer_that_was_zero():
    before, after = np.array([2.0, 0.0, 0.0, 4.0]), np.array([1.0, 0.0, 1.0, 0.0])
    assert st.relative_change(before, after) == pytest.approx([-0.5, 0.0, np.nan, -1.0], nan_ok=True)


def test_a_share_of_errors_without_errors_is_unusable():
    boot = st.Bootstrap(200)
    quantity = st.ratio(some(60), np.zeros(60), np.eye(60)[0])
    draws = boot.draws(quantity)
    assert np.isnan(draws).mean() == pytest.approx((59 / 60) ** 60, abs=0.1)
    with pytest.raises(Unusable, match="too few images"):
        st.interval_over_examples(0.0, draws)


# -- intervals -----------------------------------------------------------------------------------------


def covers(found: st.Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def test_the_interval_over_examples_holds_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(2)
    held = []
    for trial in range(600):
        # The second network loses each image that the first has right with probability 0.1.
        first = rng.random(150) < 0.85
        second = first & (rng.random(150) < 0.9)
        boot = st.Bootstrap(300, seed=trial)
        one, other = (st.mean(some(150), right.astype(float)) for right in (first, second))
        value = float(other.value() - one.value())
        held.append(covers(st.interval_over_examples(value, boot.draws(other) - boot.draws(one)), -0.085))
    assert 0.92 <= np.mean(held) <= 0.975


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (3, 0.1), (3, 0.03)])
def test_the_interval_over_seeds_holds_the_truth_in_95_of_100_studies(seeds, spread):
    rng = np.random.default_rng(3)
    held = []
    for trial in range(400):
        boot = st.Bootstrap(200, seed=trial)
        images = rng.normal(0, 0.7, 100)  # shared by all seeds, as test images are
        effects = [
            st.mean(some(100), 1 + spread * rng.normal() + images + 0.2 * rng.normal(size=100))
            for _ in range(seeds)
        ]
        found = st.interval_over_seeds(
            np.array([float(effect.value()) for effect in effects]),
            np.array([boot.draws(effect) for effect in effects]),
            st.identity,
            boot.generator("seeds"),
        )
        held.append(covers(found, 1.0))
    assert 0.915 <= np.mean(held) <= 0.99


@pytest.mark.parametrize(("units", "points"), [(2, 4), (3, 4), (8, 4), (3, 8)])
def test_correlations_by_chance_alone_rarely_exclude_zero(units, points):
    rng = np.random.default_rng(4)
    out, ranks = 0, np.arange(points, dtype=float)
    for _ in range(2000):
        rhos = np.array([st.spearman(ranks, rng.permutation(ranks)) for _ in range(units)])
        found = st.interval_of_mean_correlation(rhos, points, of=units)
        assert -1 <= found.low <= found.value <= found.high <= 1
        out += found.low > 0 or found.high < 0
    assert out / 2000 <= 0.055


def test_the_interval_of_a_mean_correlation_is_students_unless_chance_is_wider():
    rhos = np.array([0.2, 0.6, 0.4])
    half = stats.t.ppf(0.975, 2) * 0.2 / math.sqrt(3)
    found = st.interval_of_mean_correlation(rhos, 100, of=30)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    alike = st.interval_of_mean_correlation(np.array([0.8, 0.8]), 5, of=4)
    assert (alike.low, alike.high) == pytest.approx((0.8 - 1.96 / math.sqrt(4 * 4), 1.0), abs=1e-3)


def test_where_only_seeds_vary_the_interval_is_students():
    values = np.array([0.1, 0.3, 0.2])
    draws = np.broadcast_to(values[:, None], (3, 20_000))
    found = st.interval_over_seeds(values, draws, st.identity, np.random.default_rng(0))
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert found.low == pytest.approx(0.2 - half, abs=0.005)
    assert found.high == pytest.approx(0.2 + half, abs=0.005)


def test_where_seeds_and_images_vary_their_variances_add_up():
    # Two seeds: variance of the mean 0.1^2 from seeds, 0.1^2 from images, which both share. Satterthwaite's
    # degrees of freedom are 1 * (0.02 / 0.01)^2 = 4.
    images = np.random.default_rng(1).normal(0, 0.1, 50_000)
    images -= images.mean()
    values = np.array([0.1, 0.3])
    found = st.interval_over_seeds(values, values[:, None] + images, st.identity, np.random.default_rng(0))
    half = stats.t.ppf(0.975, 4) * math.sqrt(0.02)
    assert found.low == pytest.approx(0.2 - half, abs=0.01)
    assert found.high == pytest.approx(0.2 + half, abs=0.01)


def test_where_seeds_agree_the_interval_is_the_one_over_examples():
    draws = np.random.default_rng(0).normal(0.2, 0.05, 20_000)
    found = st.interval_over_seeds(
        np.full(3, 0.2), np.broadcast_to(draws, (3, 20_000)), st.identity, np.random.default_rng(0)
    )
    assert (found.low, found.high) == (pytest.approx(0.102, abs=0.005), pytest.approx(0.298, abs=0.005))


def test_seeds_that_agree_exactly_give_a_point_and_no_warning():
    values = np.full(3, 0.2)
    draws = np.broadcast_to(values[:, None], (3, 100))
    found = st.interval_over_seeds(values, draws, st.identity, np.random.default_rng(0))
    assert found.low == pytest.approx(0.2)
    assert found.high == pytest.approx(0.2)


def test_the_bias_of_a_distance_is_taken_off_twice():
    # A distance of two samples is too large by b, its draws by 2b; the middle of the interval is b below.
    draws = np.random.default_rng(0).normal(0.12, 0.01, 50_000)
    found = st.interval_over_examples(0.11, draws)
    assert (found.low + found.high) / 2 == pytest.approx(0.10, abs=0.001)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.01, rel=0.03)


def test_the_floor_of_a_distance_is_what_shuffled_samples_reach():
    rng = np.random.default_rng(4)
    boot = st.Bootstrap()
    above = 0
    for trial in range(60):
        pair = [(some(80, f"{side}{trial}"), rng.normal(size=80)) for side in "ab"]
        quantity = st.wasserstein(*pair, boot)
        above += float(quantity.value()) > quantity.floor()
    assert above <= 8  # 3 expected; more than 8 has probability 0.004
