"""Counts of images against chance."""

from scipy.special import bdtrc

_SHARE_OF_SAMPLES = 1e-3


def exceeds_chance(count: int, of: int, share: float) -> bool:
    """Whether chance shows so many of `of`, or more, in fewer than one sample of a thousand.

    Each of them counts with probability `share`; the exact binomial tail. A count of zero never exceeds.

    >>> [exceeds_chance(count, of=64, share=0.05) for count in (10, 11)]
    [False, True]
    """
    return count > 0 and float(bdtrc(count - 1, of, share)) < _SHARE_OF_SAMPLES
