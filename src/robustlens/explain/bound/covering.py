"""Size of the space of images: covering numbers, and the dimension of the data's manifold."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.optimize import least_squares
from torch import Tensor

from robustlens.errors import DataError
from robustlens.models.inputs import ANYWHERE, Images, checked_images

RADII = 30
"""Radii at which covering numbers are fitted."""

FEWEST_POINTS = 8  # distinct points with which a slope can be fitted at all
_KEPT = 0.9  # share of the ratios that TwoNN keeps; the largest are the most disturbed
_ROWS = 1024  # of a distance matrix at a time


@dataclass(frozen=True, eq=False)
class Covering:
    """Covering numbers of a set of points, and the law (extent / eps)^dimension through them.

    Attributes:
        eps: radii, ascending, in the units of the points.
        count: how many balls of that radius a greedy net needs.
        dimension: k of the law.
        extent: C_X of the law, in the units of the points.
        points: how many distinct points there are.
        bounded: the law is (1 + extent / eps)^dimension; see `covering`.
    """

    eps: Float64[np.ndarray, " radii"]
    count: Float64[np.ndarray, " radii"]
    dimension: float
    extent: float
    points: int
    bounded: bool = False

    def log_count(self, eps: float) -> float:
        """Natural logarithm of the covering number that the law gives at `eps`; at least 0."""
        balls = math.log(self.extent) - math.log(eps)
        return self.dimension * (float(np.logaddexp(0.0, balls)) if self.bounded else max(0.0, balls))


def covering(points: Images, *, bounded: bool = False) -> Covering:
    """Covering numbers by greedy nets, and their dimension by regression of log N on log(1 / eps).

    Farthest-point traversal (Gonzalez 1985) begins at the point nearest to the mean and adds the point
    farthest from all chosen ones. Its first N points are a net whose radius is that distance, at most twice
    the radius of the best N points: one traversal gives the net of every radius at once. N(eps) is the first
    N whose radius is at most eps.

    The fit is over the radii, evenly spaced on a log scale, of the nets with n^(1/3) to n^(2/3) of the n
    points. Coarser nets see the shape of the whole (curvature, turns that come near each other), finer ones
    the gaps between the points, and both have other slopes.

    Args:
        points: flattened; duplicates count once.
        bounded: the law fitted is N = (1 + extent / eps)^dimension. Balls hang over the boundary of a
            manifold that has one: covering it is packing the manifold grown by eps (Steiner), for a cube
            exactly this law. Without it a cube of dimension 2 to 5 appears to have 0.8 to 0.6 of that. Of a
            closed manifold the plain law is right, and this one gives too much: where nets are too coarse to
            tell the two apart, far too much.

    Returns:
        The nets and the law. Of 4,000 points, the dimension is within 10 % on circles, spheres and tori of
        dimension 1 to 3 (plain), on swiss rolls and cubes of dimension 2 to 4 (bounded), not on cubes of
        dimension 5, whose nets of that size have most of their balls at the boundary.

    Raises:
        DataError: fewer than 8 distinct points, one that is not finite, or points that are all equally far
            from each other.
    """
    distinct = _distinct(points)
    n = len(distinct)
    coarse, fine = round(n ** (1 / 3)), round(n ** (2 / 3))
    radius = np.fromiter(_radii(distinct, fine), np.float64, fine)
    if not radius[fine - 1] < radius[coarse - 1]:
        raise DataError("covering: found points that are all equally far from each other, which has no slope")
    eps = np.geomspace(radius[fine - 1], radius[coarse - 1], RADII)
    count = 1.0 + (radius > eps[:, None] * (1 + 1e-9)).sum(1)
    slope, intercept = np.polyfit(-np.log(eps), np.log(count), 1)
    law = np.array([slope, intercept / slope])
    if bounded:
        law = least_squares(lambda p: p[0] * np.log1p(np.exp(p[1]) / eps) - np.log(count), law).x
    return Covering(eps, count, float(law[0]), float(np.exp(law[1])), n, bounded)


def intrinsic_dimension(points: Images) -> float:
    """TwoNN: dimension from the ratio of each point's second to its first neighbour's distance.

    Where density is constant over these two, P(ratio > r) = r^-d (Facco et al. 2017, eq. 4). d is the slope
    through the origin of -log(1 - F) on log r; the largest 10 % of the ratios are discarded, as there. It
    needs no range of scales, and sees the finest one only. Duplicates count once.

    Raises:
        DataError: as `covering`.
    """
    distinct = _distinct(points)
    n = len(distinct)
    nearest = torch.cat([_neighbours(distinct, some) for some in torch.arange(n).split(_ROWS)])
    ratio = (nearest[:, 1] / nearest[:, 0]).log().sort().values[: int(_KEPT * n)].numpy()
    tail = -np.log1p(-np.arange(1, len(ratio) + 1) / n)
    if not ratio[-1] > 0:
        raise DataError("covering: found points that are all equally far from each other, which has no slope")
    return float(ratio @ tail / (ratio @ ratio))


def _distinct(points: Images) -> Float64[Tensor, "m d"]:
    """The points without duplicates, as rows, about their mean."""
    checked = checked_images(points, ANYWHERE, where="covering")
    rows = torch.unique(checked.detach().cpu().double().flatten(1), dim=0)
    if len(rows) < FEWEST_POINTS:
        raise DataError(f"covering: found {len(rows)} distinct points, expected at least {FEWEST_POINTS}")
    return rows - rows.mean(0)


def _radii(points: Tensor, count: int) -> Iterator[float]:
    """Radius of the net of the first 1, 2, ... `count` points of a farthest-point traversal."""
    far = int(points.norm(dim=1).argmin())
    distance = torch.full((len(points),), torch.inf, dtype=points.dtype)
    for _ in range(count):
        distance = distance.minimum((points - points[far]).norm(dim=1))
        far = int(distance.argmax())
        yield float(distance[far])


def _neighbours(points: Tensor, some: Tensor) -> Float64[Tensor, "m 2"]:
    """Distances of some of the points to their two nearest other points."""
    distance = torch.cdist(points[some], points)
    distance[torch.arange(len(some)), some] = torch.inf
    return distance.topk(2, largest=False).values
