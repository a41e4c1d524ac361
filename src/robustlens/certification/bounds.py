"""Intervals of tensors, and how far float64 may be from real numbers."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

UNIT = 2.0**-53
"""Largest relative error of one float64 operation."""


class Bounds(NamedTuple):
    """A lower and an upper bound of every entry of a tensor (n, ...)."""

    lower: Float[Tensor, "n ..."]
    upper: Float[Tensor, "n ..."]

    @property
    def magnitude(self) -> Float[Tensor, "n ..."]:
        """Largest absolute value that an entry may have."""
        return self.lower.abs().maximum(self.upper.abs())

    def within(self, other: "Bounds") -> "Bounds":
        """What both allow."""
        return Bounds(self.lower.maximum(other.lower), self.upper.minimum(other.upper))


def rounding(terms: int) -> float:
    """Relative error of a sum of so many products in float64, in whatever order it is taken.

    Higham 2002 ("Accuracy and Stability of Numerical Algorithms", lemma 3.1 and eq. 3.5): the error is at
    most gamma_k = k u / (1 - k u) of the sum of absolute values. Eight more terms stand for the few
    operations around the sum, and a factor of two for the rounding of what is made with this number.
    """
    return 2 * (terms + 8) * UNIT / (1 - (terms + 8) * UNIT)


def smallest(coefficients: Float[Tensor, "n s ..."], bounds: Bounds) -> Float[Tensor, "n s"]:
    """A lower bound of the inner products of each row with whatever lies inside the bounds."""
    low, high = (each.flatten(1)[:, :, None] for each in bounds)
    rows = coefficients.flatten(2)
    value = (rows.clamp_min(0) @ low + rows.clamp_max(0) @ high).squeeze(2)
    return value - slack(coefficients, bounds.magnitude, 1)


def slack(
    coefficients: Float[Tensor, "n s ..."], magnitude: Float[Tensor, "n ..."], terms: int
) -> Float[Tensor, "n s"]:
    """Rounding error of inner products of each row with sums of `terms` products of this magnitude."""
    rows = coefficients.flatten(2)
    total = (rows.abs() @ magnitude.flatten(1)[:, :, None]).squeeze(2)
    return rounding(terms + rows.shape[2]) * total
