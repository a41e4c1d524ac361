"""Learning rates, by hand."""

import math

import pytest

from robustlens.config import OptimizerSpec
from robustlens.training.schedules import learning_rate


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("piecewise", 0.0, 1.0),
        ("piecewise", 0.5, 0.1),
        ("piecewise", 0.74, 0.1),
        ("piecewise", 0.75, 0.01),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("one-cycle", 0.0, 0.0),
        ("one-cycle", 0.15, 0.5),
        ("one-cycle", 0.3, 1.0),
        ("one-cycle", 0.65, 0.5),
        ("constant", 0.9, 1.0),
    ],
)
def test_learning_rates_by_hand(schedule, done, expected):
    spec = OptimizerSpec(lr=1.0, schedule=schedule)
    assert math.isclose(learning_rate(spec, done), expected, rel_tol=1e-12, abs_tol=1e-12)
