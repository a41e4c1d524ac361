"""Numbers of a spectrum, worked by hand."""

import math

import numpy as np
import pytest

from robustlens.errors import ConfigError
from robustlens.spectra import summarize


def test_a_summary_is_what_it_says() -> None:
    entropy = math.log(3) - 2 / 3 * math.log(2)
    expected = {
        "std": 1.0,
        "mean": 3.0,
        "std_over_mean": 1 / 3,
        "max": 4.0,
        "min": 2.0,
        "count": 2,
        "stable_rank": 1.25,
        "condition": 2.0,
        "entropy": entropy,
        "effective_rank": math.exp(entropy),
    }
    assert summarize(np.array([4.0, 2.0])) == pytest.approx(expected, rel=1e-15)


def test_equal_values_have_full_rank() -> None:
    found = summarize(np.full(7, 0.3))
    assert found["stable_rank"] == pytest.approx(7)
    assert found["effective_rank"] == pytest.approx(7)
    assert found["condition"] == 1.0


def test_a_value_of_zero_has_no_condition_number_and_no_share_of_the_entropy() -> None:
    found = summarize(np.array([2.0, 2.0, 0.0]))
    assert found["condition"] is None
    assert found["effective_rank"] == pytest.approx(2)


def test_a_summary_of_zeros_is_zero_and_of_nothing_is_refused() -> None:
    found = summarize(np.zeros(3))
    assert found.pop("condition") is None
    assert found.pop("count") == 3
    assert set(found.values()) == {0.0}
    with pytest.raises(ConfigError, match="found no singular values"):
        summarize(np.zeros(0))
