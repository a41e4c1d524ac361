"""The bound of Wen et al. against cases worked by hand, in ranges that floating-point numbers do not hold."""

import math
from dataclasses import replace

import numpy as np
import pytest

from robustlens.errors import ConfigError
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.theorem import Bound


def _covering(dimension, extent):
    return Covering(np.ones(1), np.ones(1), dimension, extent, points=10)


# u_min = 5 * (1/2 * 1/5) * 2 = 1; N = (1 / 0.5)^2 = 4; m = 800.
BY_HAND = Bound(
    gammas=np.array([0.5, 1.0, 2.0, 4.0]),
    distances=np.array([[0.0, 5.0, 7.0], [5.0, 0.0, 6.0], [7.0, 6.0, 0.0]]),
    sigma_min={"first": 0.5, "second": 0.2},
    v_min=2.0,
    covering=_covering(2.0, 1.0),
    eps=0.5,
    eta=0.05,
    training_examples=800,
    ramp_train=np.zeros(4),
    ramp_test=np.zeros(4),
)


def test_the_bound_by_hand():
    root = math.sqrt((2 * math.log(2) * 4 + 2 * math.log(20)) / 800)
    assert BY_HAND.distance_min == 5.0
    assert BY_HAND.log_sigma_product == pytest.approx(math.log(0.1))
    assert BY_HAND.log_u_min == pytest.approx(0.0, abs=1e-12)
    assert math.exp(BY_HAND.log_complexity_term) == pytest.approx(root)
    np.testing.assert_allclose(BY_HAND.margin_term, [0.0, 0.0, 0.5, 0.75], atol=1e-12)
    np.testing.assert_allclose(np.exp(BY_HAND.log_total), np.array([0.0, 0.0, 0.5, 0.75]) + root, atol=1e-12)
    assert root < 0.25
    assert not BY_HAND.vacuous.any()
    assert BY_HAND.because() == [[], [], [], []]
    assert BY_HAND.vanishing() == []


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"v_min": 2e-3}, [["margin"]] * 4),  # u_min 0.001
        (
            {"covering": _covering(20.0, 10.0)},
            [["covering"], ["covering"], ["covering"], ["margin", "covering"]],
        ),
        ({"training_examples": 2, "eta": 1e-9}, [["confidence"]] * 3 + [["margin", "confidence"]]),
        ({"v_min": 1.0, "training_examples": 50}, [[], ["margin"], ["margin"], ["margin"]]),
    ],
)
def test_the_terms_that_make_it_vacuous(changes, because):
    found = replace(BY_HAND, **{"training_examples": 100, **changes})
    if "training_examples" not in changes and "covering" not in changes:
        found = replace(found, gammas=np.full(4, 10.0))
    if changes.get("training_examples") == 50:
        found = replace(found, gammas=np.array([0.5, 2.0, 4.0, 8.0]))
    assert found.because() == because
    assert found.vacuous.tolist() == [bool(terms) for terms in because]


def test_nothing_overflows_and_nothing_vanishes_unsaid():
    layers = {f"layer{i}": 1e-9 for i in range(100)}  # a product of 1e-900
    found = replace(BY_HAND, sigma_min=layers, covering=_covering(3000.0, 100.0), eps=1e-3)
    assert found.log_u_min / math.log(10) == pytest.approx(-900 + 1)
    assert found.log_total / math.log(10) == pytest.approx(
        [(15000 + math.log10(2 * math.log(2) / 800)) / 2] * 4
    )
    assert found.margin_term.tolist() == [1.0] * 4
    assert found.vanishing() == []
    singular = replace(found, sigma_min={**layers, "flat": 0.0}, v_min=0.0)
    assert singular.log_u_min == -math.inf
    assert singular.margin_term.tolist() == [1.0] * 4
    assert singular.vanishing() == ["sigma_min of flat", "v_min"]
    assert replace(singular, v_min=math.inf).log_u_min == -math.inf
    assert replace(BY_HAND, v_min=math.inf).margin_term.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gammas": np.array([1.0, 0.0, 2.0, 3.0])},
            r"bound\.gammas: found \[1.0, 0.0, 2.0, 3.0\], expected widths > 0",
        ),
        ({name: np.zeros(0) for name in ("gammas", "ramp_train", "ramp_test")}, r"bound\.gammas: found \[\]"),
        ({"eps": 0.0}, r"bound\.eps"),
        ({"eps": math.inf}, r"bound\.eps"),
        ({"eta": 0.0}, r"bound\.eta"),
        ({"eta": 1.0}, r"bound\.eta"),
        ({"training_examples": 0}, r"bound\.training_examples"),
    ],
)
def test_terms_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(BY_HAND, **changes)
