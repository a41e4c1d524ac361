"""Estimates with their 95 % intervals: rates, means, differences. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from robustlens.errors import DataError
from robustlens.stats.distributions import student_quantile

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
"""Share that lies beyond either end of an interval."""
ROUNDING = 1e-9
"""Differences below this share of what is compared are rounding."""
Z = NormalDist().inv_cdf(0.975)
"""Standard errors from an estimate to either end of its 95 % interval, where it is normal."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; no interval where the ends are None."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Inference(Interval):
    """An interval, and the two-sided p-value of zero by the test that the interval inverts.

    The interval holds zero exactly where p > 0.05. None where there is no interval, or no test behind it.
    """

    p: float | None = None


def wilson(successes: int, n: int) -> Interval:
    """A rate and Wilson's score interval (Wilson 1927); raises `DataError` without a single trial.

    >>> i = wilson(81, 263)
    >>> round(i.low, 4), round(i.high, 4)
    (0.2553, 0.3662)
    """
    if n == 0:
        raise DataError("evaluate: found 0 images, expected at least 1")
    rate, z2 = successes / n, Z**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * (rate * (1 - rate) / n + z2 / (4 * n * n)) ** 0.5
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def mean_of(values: np.ndarray) -> Interval:
    """A mean and its normal interval; no interval from a single value."""
    mean = float(values.mean(dtype=np.float64))
    if len(values) < 2:
        return Interval(mean)
    half = Z * float(values.std(ddof=1, dtype=np.float64)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def interquartile_range(values: np.ndarray) -> float:
    """Distance from the first to the third quartile."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)


def difference(a: Interval, b: Interval) -> Interval:
    """The difference a - b of independent estimates (Newcombe 1998, method 10: arms squared and added)."""
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Interval(value)
    down = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    up = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    return Interval(value, value - down, value + up)


def rounded(difference: float, scale: float) -> float:
    """A difference of numbers of size `scale`; zero where it is no more than their rounding.

    >>> rounded(0.3 - 0.2 - 0.1, 0.3), rounded(0.25, 0.3)
    (0.0, 0.25)
    """
    return 0.0 if abs(difference) <= ROUNDING * scale else difference


def flushed(number: float) -> float:
    """The number, or zero where it lies in -1e-12 .. 0: a difference of equal numbers, whatever their size.

    Tiny positive numbers (singular values, p-values) mean what they say.

    >>> flushed(-1.11e-16), flushed(1.11e-16), flushed(-0.25)
    (0.0, 1.11e-16, -0.25)
    """
    return 0.0 if -1e-12 <= number <= 0 else number


def share_over_seeds(intervals: Iterable[Interval | None]) -> Interval | None:
    """As `over_seeds`, of shares: Student's interval ends at 0 and at 1.

    >>> share_over_seeds([Interval(0.0), Interval(0.5), Interval(1.0)])
    Interval(value=0.5, low=0.0, high=1.0)
    """
    one = over_seeds(intervals)
    if one is None or one.low is None or one.high is None:
        return one
    return Interval(one.value, max(0.0, one.low), min(1.0, one.high))


def student_half_width(values: np.ndarray) -> float:
    """Half of Student's 95 % interval of the mean of two or more `values` (n,)."""
    quantile = student_quantile(1 - TAIL, len(values) - 1)
    return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def over_seeds(intervals: Iterable[Interval | None]) -> Interval | None:
    """One interval over training seeds, passing over those that have none.

    The value is the mean. One seed keeps its own interval, over examples. Two are too few for an interval
    over seeds: theirs reaches from the lower of their own ends to the higher, and there is none where a seed
    has none. Three or more have Student's 95 % interval of the mean, which speaks of training again; where
    their own intervals, averaged, reach further (they saw the same examples), those ends count. So no number
    of seeds looks more certain than one.

    >>> over_seeds([Interval(0.25, 0.125, 0.5), Interval(0.75, 0.5, 1.0)])
    Interval(value=0.5, low=0.125, high=1.0)
    >>> over_seeds([Interval(0.25), Interval(0.75)])
    Interval(value=0.5, low=None, high=None)
    """
    known = [interval for interval in intervals if interval is not None]
    if len(known) < 2:
        return known[0] if known else None
    values = np.array([interval.value for interval in known])
    mean = float(values.mean())
    own = [(i.low, i.high) for i in known if i.low is not None and i.high is not None]
    ends = np.array(own) if len(own) == len(known) else None
    if len(known) == 2:
        return Interval(mean) if ends is None else Interval(mean, float(ends.min()), float(ends.max()))
    half = student_half_width(values)
    low, high = mean - half, mean + half
    if ends is not None:
        low, high = min(low, float(ends[:, 0].mean())), max(high, float(ends[:, 1].mean()))
    return Interval(mean, low, high)
