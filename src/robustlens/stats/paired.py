"""Two networks on the same images: counts of who is right, and the paired difference of their accuracies."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robustlens.stats.intervals import Inference, Z

_HALVINGS = 60  # of an interval of width 2: below the spacing of floats


@dataclass(frozen=True)
class PairedCounts:
    """How many images both networks have right, only one of them, or neither (McNemar 1947)."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> "PairedCounts":
        """Counts of two boolean masks (n,), the same image at the same place.

        >>> PairedCounts.of(np.array([True, True, False]), np.array([True, False, False]))
        PairedCounts(both=1, only_a=1, only_b=0, neither=1)
        """
        return cls(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))

    @property
    def n(self) -> int:
        """Number of images."""
        return self.both + self.only_a + self.only_b + self.neither

    def difference(self) -> Inference:
        """Accuracy of b minus that of a, with Tango's score interval and McNemar's p-value.

        The interval inverts the score test of the paired difference (Tango 1998, Statistics in Medicine 17),
        which at a difference of zero is McNemar's test, so it holds zero exactly where p > 0.05. It keeps its
        level where few images or none tell the networks apart.

        Raises:
            ZeroDivisionError: there is no image.
        """
        value = (self.only_b - self.only_a) / self.n
        apart = self.only_a + self.only_b
        p = math.erfc(abs(self.only_b - self.only_a) / math.sqrt(2 * apart)) if apart else 1.0
        low = _root(lambda delta: self._distance(delta) - Z * self._error(delta), -1.0, value)
        high = _root(lambda delta: self._distance(delta) + Z * self._error(delta), value, 1.0)
        return Inference(value, low, high, p)

    def _distance(self, delta: float) -> float:
        return self.only_b - self.only_a - self.n * delta

    def _error(self, delta: float) -> float:
        """Standard error of the distance, where the true difference is `delta`: n times the score's."""
        n, a, b = self.n, self.only_a, self.only_b
        # Most likely share of "only a" among all pairs of shares that differ by delta.
        linear = (2 * n - b + a) * delta - a - b
        constant = -a * delta * (1 - delta)
        share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        return math.sqrt(max(n * (2 * share + delta * (1 - delta)), 0.0))


def mean_difference(a: np.ndarray, b: np.ndarray) -> Inference:
    """Mean of b - a over the same images (n,), with its normal interval and p-value; none from one image."""
    change = b.astype(np.float64) - a.astype(np.float64)
    mean = float(change.mean())
    if len(change) < 2:
        return Inference(mean)
    error = float(change.std(ddof=1)) / math.sqrt(len(change))
    equal = 1.0 if mean == 0 else 0.0  # every image changes by the same
    p = math.erfc(abs(mean) / error / math.sqrt(2)) if error > 0 else equal
    return Inference(mean, mean - Z * error, mean + Z * error, p)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """The point between `low` and `high` at which a falling function is zero."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
