"""Statistics of a sample: ranks, spreads and quantiles under weights, and the distance to another sample."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mean_ranks(values: Array) -> Array:
    """Ranks from 1 along the last axis (..., n); equal values have the mean of theirs, rows with a NaN NaN.

    >>> mean_ranks(np.array([0.3, 0.1, 0.3])).tolist()
    [2.5, 1.0, 2.5]
    """
    order = np.argsort(values, axis=-1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=-1)
    begins = np.ones(ranked.shape, dtype=bool)  # a row does, and where a value is not the one before it
    begins[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    first = np.flatnonzero(begins)
    equal = np.diff(first, append=ranked.size)
    n = max(1, ranked.shape[-1])
    of_first = np.repeat(first % n + (equal + 1) / 2, equal).reshape(ranked.shape)
    ranks = np.empty(ranked.shape)
    np.put_along_axis(ranks, order, of_first, axis=-1)
    ranks[np.isnan(ranked).any(-1)] = np.nan
    return ranks


def wasserstein_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples (n,) and (m,): the area between their distribution functions.

    NaN where one is empty, or holds a value that is not finite.

    >>> wasserstein_distance(np.array([0.0, 1.0]), np.array([2.0]))
    1.5
    """
    values = np.sort(np.concatenate([one, other]).astype(np.float64))
    if not (len(one) and len(other) and np.isfinite(values).all()):
        return float("nan")
    below = [np.sort(sample).searchsorted(values[:-1], "right") / len(sample) for sample in (one, other)]
    return float(np.abs(below[0] - below[1]) @ np.diff(values))


def weighted_std(weights: Array, values: Array) -> Array:
    """Standard deviation under each row of `weights` (b, n), of `values` (n,) or (n, layers)."""
    centred = values - values.mean(0)
    return np.sqrt(np.maximum(weights @ centred**2 - (weights @ centred) ** 2, 0))


def weighted_within_std(weights: Array, values: Array, groups: NDArray[np.generic]) -> Array:
    """As `weighted_std`, of the distance of each value to the mean of its own group.

    Args:
        weights: (b, n).
        values: (n,) or (n, layers).
        groups: (n,), of any kind: examples with equal entries are one group.
    """
    squares = np.zeros((len(weights), *values.shape[1:]))
    for group in np.unique(groups):
        rows = groups == group
        own, centred = weights[:, rows], values[rows] - values[rows].mean(0)
        total = own.sum(1).reshape(-1, *[1] * (values.ndim - 1))
        mean = np.divide(own @ centred, total, np.zeros_like(squares), where=total > 0)
        squares += np.maximum(own @ centred**2 - total * mean**2, 0)
    return np.sqrt(squares)


def weighted_quantile(weights: Array, values: Array, share: float) -> Array:
    """Least of `values` (n,) that at least `share` of each row of `weights` (b, n) lies at or below.

    With equal weights this is numpy's quantile by the method "inverted_cdf".
    """
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[:, order], axis=1)
    # Sums of n weights 1 / n are a rounding away from shares k / n.
    first = (below < share * below[:, -1:] - 1e-9).sum(1)
    return np.asarray(values[order][first])
