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


# In balls of 0.5 u_min = 5 * (1/2 * 1/5) * (2.5 - 0.5) = 1; N = (1 / 0.5)^2 = 4; m = 800.
BY_HAND = Bound(
    gammas=np.array([0.5, 1.0, 2.0, 4.0]),
    distances=np.array([[0.0, 5.0, 7.0], [5.0, 0.0, 6.0], [7.0, 6.0, 0.0]]),
    sigma_min={"first": 0.5, "second": 0.2},
    v_min=2.5,
    covering=_covering(2.0, 1.0),
    eps=np.full(4, 0.5),
    eta=0.05,
    training_examples=800,
    ramp_train=np.zeros(4),
    ramp_test=np.zeros(4),
)


def test_the_bound_by_hand():
    root = math.sqrt((2 * math.log(2) * 4 + 2 * math.log(20)) / 800)
    assert BY_HAND.distance_min == 5.0
    assert BY_HAND.log_sigma_product == pytest.approx(math.log(0.1))
    assert BY_HAND.log_u_min == pytest.approx(math.log(1.25))
    np.testing.assert_allclose(BY_HAND.log_u_in_balls, 0.0, atol=1e-12)
    np.testing.assert_allclose(np.exp(BY_HAND.log_complexity_term), root)
    np.testing.assert_allclose(BY_HAND.margin_term, [0.0, 0.0, 0.5, 0.75], atol=1e-12)
    np.testing.assert_allclose(np.exp(BY_HAND.log_total), np.array([0.0, 0.0, 0.5, 0.75]) + root, atol=1e-12)
    assert root < 0.25
    assert not BY_HAND.vacuous.any()
    assert BY_HAND.because() == [[], [], [], []]
    assert BY_HAND.vanishing() == []


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"v_min": 0.502}, [["margin"]] * 4),  # u_min 0.001
        (
            {"covering": _covering(20.0, 10.0)},
            [["covering"], ["covering"], ["covering"], ["margin", "covering"]],
        ),
        ({"training_examples": 2, "eta": 1e-9}, [["confidence"]] * 3 + [["margin", "confidence"]]),
        ({"v_min": 1.5, "training_examples": 50}, [[], ["margin"], ["margin"], ["margin"]]),
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
    found = replace(BY_HAND, sigma_min=layers, covering=_covering(3000.0, 100.0), eps=np.full(4, 1e-3))
    assert found.log_u_min / math.log(10) == pytest.approx(-900 + math.log10(12.5))
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


def test_the_least_bound_over_a_fine_grid_of_radii_is_found():
    wide = replace(BY_HAND, gammas=np.array([0.3, 1.0, 3.0, 30.0]), training_examples=5000)
    grid = np.geomspace(2.5e-6, 2.5, 200_001)
    u = 0.5 * (2.5 - grid)
    root = np.sqrt((2 * math.log(2) * np.maximum(1, grid**-2.0) + 2 * math.log(20)) / 5000)
    found = wide.least(1.0)
    for place, gamma in enumerate(wide.gammas):
        totals = np.maximum(0, 1 - u / gamma) + root
        assert math.exp(found.log_total[place]) == pytest.approx(totals.min(), rel=1e-6)
        assert math.exp(found.log_total[place]) == pytest.approx(
            math.exp(replace(wide, eps=np.full(4, found.eps[place])).log_total[place])
        )
    assert (found.eps < 2.5).all()
    assert len(set(found.eps.round(3).tolist())) > 1  # each gamma has its own


def test_where_the_covering_dominates_the_largest_radius_is_taken():
    hopeless = replace(BY_HAND, covering=_covering(40.0, 1e4)).least(1.0)
    assert hopeless.eps.tolist() == [2.5] * 4
    assert hopeless.margin_term.tolist() == [1.0] * 4
    assert hopeless.summary()["within_radius"] is True
    assert hopeless.summary()["log10"]["u_min"] == pytest.approx(math.log10(1.25))


def test_a_radius_that_the_network_was_not_robust_at_promises_nothing():
    beyond = replace(BY_HAND, eps=np.full(4, 3.0))
    assert beyond.margin_term.tolist() == [1.0] * 4
    assert beyond.summary()["within_radius"] is False
    boundless = replace(BY_HAND, v_min=math.inf, covering=_covering(2.0, 4.0)).least(4.0)
    assert boundless.margin_term.tolist() == [0.0] * 4
    assert boundless.eps.tolist() == pytest.approx([4.0] * 4)
    assert replace(BY_HAND, v_min=0.0).least(4.0).margin_term.tolist() == [1.0] * 4


def test_a_network_that_is_wrong_everywhere_has_no_bound():
    none = replace(BY_HAND, right=0, searched=8, v_min=math.inf, ramp_train=np.full(4, math.nan))
    summary = none.summary()
    assert summary["is_bound"] is False
    assert [row["ramp_gap"] for row in summary["gammas"]] == [None] * 4
    assert replace(none, right=8).summary()["is_bound"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gammas": np.array([1.0, 0.0, 2.0, 3.0])},
            r"bound\.gammas: found \[1.0, 0.0, 2.0, 3.0\], expected widths > 0",
        ),
        (
            {name: np.zeros(0) for name in ("gammas", "eps", "ramp_train", "ramp_test")},
            r"bound\.gammas: found \[\]",
        ),
        ({"eps": np.array([0.5, 0.0, 0.5, 0.5])}, r"bound\.eps"),
        ({"eps": np.array([0.5, 0.5, math.inf, 0.5])}, r"bound\.eps"),
        ({"eta": 0.0}, r"bound\.eta"),
        ({"eta": 1.0}, r"bound\.eta"),
        ({"training_examples": 0}, r"bound\.training_examples"),
    ],
)
def test_terms_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(BY_HAND, **changes)
