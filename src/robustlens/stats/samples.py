"""Ranks of a sample, and the distance between two."""

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
