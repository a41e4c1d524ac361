"""Kinds of misclassification: decisive or indecisive, by class, and against another network.

All on saved margins, so that measures, claims and the report split misclassifications alike.
"""

import math
from typing import Any

import numpy as np

from robustlens.errors import DataError

OUTCOMES = ("right", "indecisive error", "decisive error")
"""Outcomes of an image, in the order of their numbers in `outcomes`."""
TAU = 0.2
"""An image is near a decision boundary, and an error indecisive, if |p_y - max p_i| is below this."""
TAUS = (0.1, TAU, 0.3)
"""Other thresholds beside it, to see how far the choice matters."""


def logit_margin(tau: float) -> float:
    """The logit margin whose probability margin is `tau` where there are two classes: 2 artanh(tau).

    With more classes the probability margin is smaller at the same logit margin.

    >>> round(logit_margin(0.2), 4)
    0.4055
    """
    return 2 * math.atanh(tau)


def outcomes(correct: np.ndarray, margin: np.ndarray, tau: float) -> np.ndarray:
    """The outcome of every image, as its place in `OUTCOMES`.

    Args:
        correct: (n,) bool, whether the prediction is the label.
        margin: (n,) probability margins `p_y - max_{i != y} p_i`; on a mistake `p_max - p_y` is minus this.
        tau: a mistake with `p_max - p_y < tau` is indecisive (Wen et al. 2020, section 5).

    >>> outcomes(np.array([True, False, False]), np.array([0.05, -0.05, -0.6]), tau=0.2).tolist()
    [0, 1, 2]
    """
    return np.where(correct.astype(bool), 0, np.where(-margin < tau, 1, 2))


def cross_table(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Counts of pairs of numbers: (i, j) is how many images have i in `rows` and j in `columns`.

    Of the outcomes of two networks on the same images these are the transitions from one to the other; of
    labels and outcomes, the mistakes of each class.

    Raises:
        DataError: the two are not of the same images, or a number lies outside `shape`.

    >>> cross_table(np.array([0, 0, 2]), np.array([0, 1, 1]), (3, 2)).tolist()
    [[1, 1], [0, 0], [0, 1]]
    """
    if rows.shape != columns.shape:
        raise DataError(f"mistakes: found {rows.size} and {columns.size} images, expected the same images")
    within = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    if not within.all():
        bad = int((~within).sum())
        raise DataError(f"mistakes: found {bad} images outside a table of {shape}, expected none")
    pairs = rows.astype(np.int64) * shape[1] + columns.astype(np.int64)
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def summarize(correct: np.ndarray, margin: np.ndarray, taus: tuple[float, ...] = TAUS) -> dict[str, Any]:
    """Mistakes, and how many of them are indecisive at each tau.

    `indecisive_errors`: share of all images that are indecisive errors; `indecisive_share`: the same as a
    share of the errors (None where there are none).
    """
    error = float((~correct).mean())
    indecisive = {str(tau): float((outcomes(correct, margin, tau) == 1).mean()) for tau in taus}
    return {
        "error": error,
        "indecisive_errors": indecisive,
        "indecisive_share": {tau: share / error if error else None for tau, share in indecisive.items()},
    }


def by_class(
    correct: np.ndarray, margin: np.ndarray, labels: np.ndarray, tau: float = TAU
) -> dict[str, dict[str, float]]:
    """Error of each class that has images, and the share of its images that are indecisive errors."""
    counts = cross_table(labels, outcomes(correct, margin, tau), (int(labels.max()) + 1, len(OUTCOMES)))
    return {
        str(label): {
            "images": int(row.sum()),
            "error": float(row[1:].sum() / row.sum()),
            "indecisive_errors": float(row[1] / row.sum()),
        }
        for label, row in enumerate(counts)
        if row.any()
    }
