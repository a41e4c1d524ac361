"""Dimensions and covering numbers of manifolds that are known."""

import math

import numpy as np
import pytest
import torch

import robustlens as rl
from robustlens.errors import DataError
from robustlens.explain.bound.covering import Covering

N = 4000


def _sphere(k, random):
    points = random.normal(size=(N, k + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _torus(k, random):
    angle = random.uniform(0, 2 * np.pi, (N, k))
    return np.concatenate([np.cos(angle), np.sin(angle)], 1)


def _swiss_roll(k, random):
    turn, height = 1.5 * np.pi * (1 + 2 * random.uniform(size=N)), 21 * random.uniform(size=N)
    return np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], 1)


def _cube(k, random):
    return random.uniform(size=(N, k))


closed = [(_sphere, 1), (_sphere, 2), (_torus, 2), (_torus, 3)]
with_boundary = [(_swiss_roll, 2), (_cube, 2), (_cube, 3), (_cube, 4)]


def _points(make, k):
    return torch.from_numpy(make(k, np.random.default_rng(0)))


def _named(rows):
    return pytest.mark.parametrize(("make", "k"), rows, ids=[f"{make.__name__[1:]} {k}" for make, k in rows])


@_named([*closed, *with_boundary, (_cube, 5), (_sphere, 5)])
def test_two_nn_finds_the_dimension(make, k):
    assert rl.explain.intrinsic_dimension(_points(make, k)) == pytest.approx(k, rel=0.1)


@_named(closed)
def test_nets_of_closed_manifolds_find_the_dimension(make, k):
    assert rl.explain.covering(_points(make, k)).dimension == pytest.approx(k, rel=0.1)


@_named(with_boundary)
def test_nets_find_the_dimension_where_the_boundary_is_counted(make, k):
    points = _points(make, k)
    assert rl.explain.covering(points, bounded=True).dimension == pytest.approx(k, rel=0.1)
    assert rl.explain.covering(points).dimension < k


def test_the_dimension_is_that_of_the_manifold_not_of_the_space_and_has_no_unit():
    flat = _points(_sphere, 2)
    turned = flat @ torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q[:3] * 7 + 3
    for estimate in (rl.explain.intrinsic_dimension, lambda points: rl.explain.covering(points).dimension):
        assert estimate(turned.view(N, 5, 8)) == pytest.approx(estimate(flat), rel=1e-6)
    assert rl.explain.covering(turned).extent == pytest.approx(7 * rl.explain.covering(flat).extent, rel=1e-6)


def test_nets_of_a_grid_on_a_line_by_hand():
    # Farthest points of 0 ... 64 from the middle: both ends first, then the middles of the largest gaps.
    found = rl.explain.covering(torch.arange(65.0)[:, None])
    whole = {round(float(eps)): int(count) for eps, count in zip(found.eps, found.count, strict=True)}
    assert whole[16] == 3  # 32, 0 and 64 are within 16 of everything
    assert whole[4] == 9


def test_duplicates_count_once():
    points = _points(_sphere, 1)[:500]
    twice = torch.cat([points, points[:200]])
    assert rl.explain.intrinsic_dimension(twice) == rl.explain.intrinsic_dimension(points)
    assert rl.explain.covering(twice).count.tolist() == rl.explain.covering(points).count.tolist()


def test_the_law_is_evaluated_as_a_logarithm():
    radii = np.array([1.0])
    plain = Covering(radii, radii, dimension=900.0, extent=100.0, points=10)
    assert plain.log_count(0.1) == pytest.approx(900 * math.log(1000))  # 10^2700 balls
    assert plain.log_count(1e3) == 0.0  # one ball, not less
    bounded = Covering(radii, radii, dimension=2.0, extent=3.0, points=10, bounded=True)
    assert bounded.log_count(1.0) == pytest.approx(2 * math.log(4))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.rand(7, 3), "found 7 distinct points, expected at least 8"),
        (torch.ones(100, 3), "found 1 distinct points"),
        (torch.eye(30), "equally far from each other"),
    ],
)
def test_points_without_a_dimension_are_refused(points, message):
    for estimate in (rl.explain.covering, rl.explain.intrinsic_dimension):
        with pytest.raises(DataError, match=message):
            estimate(points)
