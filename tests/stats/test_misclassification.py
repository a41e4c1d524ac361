"""Kinds of mistakes and tables of them, by hand."""

import numpy as np
import pytest

from robustlens.errors import DataError
from robustlens.stats.misclassification import TAU, by_class, cross_table, outcomes, summarize

CORRECT = np.array([True, True, False, False, False])
MARGIN = np.array([0.05, 0.9, -0.05, -0.2, -0.7], dtype=np.float32)


def test_mistakes_are_indecisive_strictly_below_tau():
    assert outcomes(CORRECT, MARGIN, 0.1).tolist() == [0, 0, 1, 2, 2]
    assert outcomes(CORRECT, MARGIN.astype(np.float64), 0.3).tolist() == [0, 0, 1, 1, 2]
    assert outcomes(np.array([False, False]), np.array([-0.25, -0.24]), 0.25).tolist() == [2, 1]
    # A tie is a mistake where the prediction went to the other class.
    assert outcomes(np.array([False]), np.array([0.0]), 0.1).tolist() == [1]
    assert outcomes(np.array([False]), np.array([np.nan]), 0.1).tolist() == [2]


def test_rates_and_shares_by_hand():
    rates = summarize(CORRECT, MARGIN, (0.1, 0.3, 1.0))
    assert rates["error"] == 0.6
    assert rates["indecisive_errors"] == pytest.approx({"0.1": 0.2, "0.3": 0.4, "1.0": 0.6})
    assert rates["indecisive_share"] == pytest.approx({"0.1": 1 / 3, "0.3": 2 / 3, "1.0": 1.0})
    assert set(summarize(np.ones(3, bool), np.ones(3))["indecisive_share"].values()) == {None}  # of no error
    assert summarize(CORRECT, MARGIN)["indecisive_errors"] == pytest.approx(
        {"0.1": 0.2, "0.2": 0.2, "0.3": 0.4}
    )
    assert TAU == 0.2  # as in the paper


def test_transitions_by_hand():
    standard = np.array([0, 0, 0, 0, 1, 2])
    robust = np.array([0, 1, 1, 2, 0, 2])
    assert cross_table(standard, robust, (3, 3)).tolist() == [[1, 2, 1], [1, 0, 0], [0, 0, 1]]
    assert cross_table(standard, standard, (3, 3)).tolist() == [[4, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_mistakes_of_each_class_by_hand():
    # Class 1 has no images; of class 2 one is right, one wrong by a little, two by far; of class 3 all are right.
    correct, labels = np.array([*CORRECT, False, True]), np.array([0, 2, 0, 2, 2, 2, 3])
    classes = by_class(correct, np.array([*MARGIN, -0.9, 0.4]), labels, tau=0.2001)
    assert classes == {
        "0": {"images": 2, "error": 0.5, "indecisive_errors": 0.5},
        "2": {"images": 4, "error": 0.75, "indecisive_errors": 0.25},
        "3": {"images": 1, "error": 0.0, "indecisive_errors": 0.0},
    }


def test_tables_of_different_images_are_refused():
    with pytest.raises(DataError, match="found 2 and 3 images"):
        cross_table(np.zeros(2), np.zeros(3), (3, 3))
    with pytest.raises(DataError, match=r"found 1 images outside a table of \(3, 3\)"):
        cross_table(np.array([3]), np.array([0]), (3, 3))
    # Neither side takes a number for one of the other's, and both end below their own length.
    assert cross_table(np.array([1, 1]), np.array([2, 0]), (2, 3)).tolist() == [[0, 0, 0], [1, 0, 1]]
    for rows, columns in (([2], [0]), ([-1], [0]), ([0], [3]), ([0], [-1])):
        with pytest.raises(DataError, match=r"found 1 images outside a table of \(2, 3\)"):
            cross_table(np.array(rows), np.array(columns), (2, 3))
