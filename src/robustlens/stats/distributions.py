"""Quantiles and tails of distributions, which intervals and tests rest on.

From scipy.special. scipy.stats has them too, at a hundred times the cost of a number, and its import takes
half as long as that of torch: every command would wait for it.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import special


def normal_quantile(p: float) -> float:
    """The value below which a standard normal variable lies with probability `p`.

    >>> round(normal_quantile(0.975), 6)
    1.959964
    """
    return float(special.ndtri(p))


def normal_tail(z: float) -> float:
    """Probability that a standard normal variable exceeds `z`."""
    return float(special.ndtr(-z))


def student_quantile(p: float, freedom: float) -> float:
    """The value below which Student's t of so many degrees of freedom lies with probability `p`.

    >>> round(student_quantile(0.975, 2), 6)
    4.302653
    """
    return float(special.stdtrit(freedom, p))


def student_tail(t: float, freedom: float) -> float:
    """Probability that Student's t of so many degrees of freedom exceeds `t`."""
    return float(special.stdtr(freedom, -t))


def beta_quantile(p: float, a: float, b: float) -> float:
    """The value below which a variable of Beta(a, b) lies with probability `p`."""
    return float(special.betaincinv(a, b, p))


def at_most_heads(tosses: int) -> NDArray[np.float64]:
    """Probabilities of 0, of at most 1, ... of at most `tosses` heads of a fair coin, rounded once.

    >>> at_most_heads(2).tolist()
    [0.25, 0.75, 1.0]
    """
    ways, of = itertools.accumulate(math.comb(tosses, heads) for heads in range(tosses + 1)), 2**tosses
    return np.array([way / of for way in ways])
