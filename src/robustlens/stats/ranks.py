"""Rank correlations and exact small-sample tests, with their intervals."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from robustlens.stats.bootstrap import Array, divide
from robustlens.stats.distributions import (
    at_most_heads,
    beta_quantile,
    normal_quantile,
    normal_tail,
    student_tail,
)
from robustlens.stats.intervals import TAIL, Inference, student_half_width
from robustlens.stats.samples import mean_ranks

LEAST_POINTS = 4
"""Fewest points (methods, epochs) of which a rank correlation is reported: fewer have no interval."""
_LEAST_SPREAD = 1e-12
"""Variance of weighted ranks, which lie in [0, 1], below which it is rounding."""
_ENUMERATED = 200_000
"""Permutation tests enumerate up to this many arrangements, and draw 20,000 beyond."""


def spearman(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation (mean ranks for ties); None where either side is all equal."""
    rho = float(spearman_of_rows(x[None], y[None])[0])
    return rho if math.isfinite(rho) else None


def spearman_of_rows(x: Array, y: Array) -> Array:
    """Spearman's correlation of each row of `x` (b, n) with that of `y`; NaN where a row is all equal."""
    a, b = (mean_ranks(values) - (values.shape[1] + 1) / 2 for values in (x, y))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.clip(divide((a * b).sum(1), scale), -1, 1)


def weighted_spearman(weights: Array, x: Array, y: Array) -> Array:
    """Spearman's correlation of `x` and `y` (n,) under each row of `weights` (b, n); NaN where all are equal.

    A resample that holds an image twice weighs it twice: the same as `spearman` of the resample.
    """
    shares = divide(weights, weights.sum(1, keepdims=True))
    a, b = (_weighted_ranks(shares, values) - 0.5 for values in (x, y))
    spreads = [(shares * ranks * ranks).sum(1) for ranks in (a, b)]
    varies = np.minimum(*spreads) > _LEAST_SPREAD
    return np.clip(divide((shares * a * b).sum(1), np.sqrt(spreads[0] * spreads[1]) * varies), -1, 1)


def _weighted_ranks(shares: Array, values: Array) -> Array:
    """Mean rank of each value under each row of shares: the share below it, and half of that at it."""
    _, first, place = np.unique(values[np.argsort(values)], return_index=True, return_inverse=True)
    order = np.argsort(values)
    at = np.add.reduceat(shares[:, order], first, axis=1)
    ranks = np.empty_like(shares)
    ranks[:, order] = (np.cumsum(at, axis=1) - at / 2)[:, place]
    return ranks


def spearman_p(x: Array, y: Array, blocks: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Two-sided permutation p-value of `spearman`: values change places within a block (a training seed).

    Every arrangement is counted where there are at most 200,000 of them, so the value is exact; beyond,
    20,000 random ones, the observed one included.
    """
    a, b = (mean_ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    return _permutation_p(a, b, blocks, rng)


def _permutation_p(a: Array, b: Array, blocks: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Share of arrangements of `b` within blocks whose product with `a` is as far from zero as it is."""
    groups = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    if math.prod(math.factorial(len(rows)) for rows in groups) <= _ENUMERATED:
        sums = np.zeros(1)
        for rows in groups:
            orders = np.array(list(itertools.permutations(range(len(rows)))))
            sums = np.add.outer(sums, b[rows][orders] @ a[rows]).ravel()
        return float(np.mean(_as_far(sums, float(a @ b))))
    sums = np.zeros(19_999)
    for rows in groups:
        shuffled = rng.permuted(np.broadcast_to(b[rows], (len(sums), len(rows))), axis=1)
        sums += shuffled @ a[rows]
    return float((1 + np.sum(_as_far(sums, float(a @ b)))) / (1 + len(sums)))


def partial_spearman(x: Array, y: Array, strata: NDArray[np.int64]) -> float | None:
    """Rank correlation of `x` and `y` (n,) within strata: ranks are taken, and centred, in each stratum.

    Strata weigh by their size. What differs between strata alone has no part in it. None where nothing is
    left to rank.
    """
    a, b = (_within(values, strata) for values in (x, y))
    scale = math.sqrt((a @ a) * (b @ b))
    return float(np.clip((a @ b) / scale, -1, 1)) if scale > 0 else None


def partial_spearman_p(x: Array, y: Array, strata: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Two-sided permutation p-value of `partial_spearman`: as `spearman_p`, within strata."""
    return _permutation_p(_within(x, strata), _within(y, strata), strata, rng)


def partial_spearman_interval(rho: float, n: int, strata: int) -> Inference:
    """As `spearman_interval`, over n units in strata: each beyond the first costs one, for its own mean."""
    return spearman_interval(rho, n - (strata - 1))


def _within(values: Array, strata: NDArray[np.int64]) -> Array:
    """Mean ranks in each stratum over its size, which lie in [0, 1], less their middle."""
    ranks = np.zeros(len(values))
    for stratum in np.unique(strata):
        rows = strata == stratum
        ranks[rows] = (mean_ranks(values[rows]) - (rows.sum() + 1) / 2) / rows.sum()
    return ranks


def _as_far(sums: Array, seen: float) -> NDArray[np.bool_]:
    return np.abs(sums) >= abs(seen) - 1e-9


def spearman_interval(rho: float, n: int) -> Inference:
    """Interval of a rank correlation over n units: Fisher's z with the variance of Bonett and Wright (2000).

    The p-value is the normal one of z over its standard error.

    A perfect order has no finite z; it is taken half-way between 1 and the largest correlation below it
    that n ranks can have. The interval then excludes zero exactly where the permutation test has p <= 0.05
    for n from 4 to 6, and is slightly more careful beyond.
    """
    if n < LEAST_POINTS:
        return Inference(rho)
    largest = 1 - 6 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -largest), largest))
    error = math.sqrt((1 + math.tanh(z) ** 2 / 2) / (n - 3))
    half = normal_quantile(1 - TAIL) * error
    low, high = math.tanh(z - half), math.tanh(z + half)
    p = 2 * normal_tail(abs(z) / error)
    return Inference(rho, -1.0 if rho <= -largest else low, 1.0 if rho >= largest else high, p)


def interval_of_mean_correlation(rhos: Array, points: int, runs: int) -> Inference:
    """Interval of the mean of rank correlations, one for each unit: Student's, and no narrower than chance.

    A correlation over few points takes few values, so a handful of them may agree by chance; without any
    association each has the variance 1 / (n - 1). The p-value is the larger of both tests'.

    Args:
        rhos: (units,), two or more, each the mean over its runs.
        points: n, the fewest that a run's correlation rests on.
        runs: number of runs in all.
    """
    value, units = float(rhos.mean()), len(rhos)
    student = student_half_width(rhos)
    chance = normal_quantile(1 - TAIL) / math.sqrt((points - 1) * runs)
    half = max(student, chance)
    p = 2 * normal_tail(abs(value) * math.sqrt((points - 1) * runs))
    if student > 0:
        error = float(rhos.std(ddof=1)) / math.sqrt(units)
        p = max(p, 2 * student_tail(abs(value) / error, units - 1))
    return Inference(value, max(value - half, -1.0), min(value + half, 1.0), p)


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Exact binomial interval of a share (Clopper and Pearson 1934)."""
    low = beta_quantile(TAIL, count, n - count + 1) if count > 0 else 0.0
    high = beta_quantile(1 - TAIL, count + 1, n - count) if count < n else 1.0
    return low, high


def sign_test_p(positive: int, negative: int) -> float:
    """Exact two-sided sign test: as many plus signs among `positive + negative`, by chance alone."""
    n = positive + negative
    return min(1.0, 2 * float(at_most_heads(n)[min(positive, negative)])) if n else 1.0
