"""Places in the small drawings of the first screen, worked out by hand."""

import pytest

from robustlens.report.data import Network
from robustlens.report.drawing.multiples import Rows, small_multiple
from robustlens.report.drawing.palette import Style
from robustlens.stats.intervals import Interval

STYLE = Style("#000000", "#ffffff", "solid", "circle")


def network(label: str, method: str, eps: float) -> Network:
    return Network(label, method, eps, (), STYLE)


STANDARD, WEAK, STRONG, AWP = (
    network("Standard", "Standard", 0.0),
    network("AT 0.05", "AT", 0.05),
    network("AT 0.1", "AT", 0.1),
    network("AT+AWP 0.1", "AT+AWP", 0.1),
)


def test_strengths_are_equally_far_apart_and_networks_of_one_side_by_side() -> None:
    rows = [(one, [Interval(0.5)]) for one in (STANDARD, WEAK, STRONG, AWP)]
    drawing = small_multiple(rows, str, frozenset())
    assert drawing.ticks == ((30.0, "0"), (160.0, "0.05"), (290.0, "0.1"))
    assert [mark.x for mark in drawing.marks] == [30.0, 160.0, 282.5, 297.5]
    assert [(thread.network.label, thread.points) for thread in drawing.threads] == [
        ("AT 0.1", "30.0,18.0 160.0,18.0 282.5,18.0")
    ]


def test_values_start_at_zero_and_reach_as_far_as_their_intervals() -> None:
    rows = [(STANDARD, [Interval(0.5, 0.25, 1.0)]), (STRONG, [Interval(0.0)])]
    drawing = small_multiple(rows, "{:.2f}".format, frozenset({"Standard"}))
    first, second = drawing.marks
    assert (first.y, first.low, first.high) == pytest.approx((49.0, 64.5, 18.0))
    assert (second.y, second.low, drawing.zero) == (80.0, None, 80.0)
    assert first.text == "Standard: 0.50 (0.25 to 1.00)"
    assert second.text == "AT 0.1: 0.00"
    assert [(label.x, label.y, label.text) for label in drawing.labels] == [(30.0, 41.0, "0.50")]


def test_values_below_zero_move_the_line_at_zero_up() -> None:
    drawing = small_multiple([(STANDARD, [Interval(-1.0)]), (STRONG, [Interval(1.0)])], str, frozenset())
    assert drawing.zero == 49.0
    assert [mark.y for mark in drawing.marks] == [80.0, 18.0]


def test_of_two_quantities_the_first_is_hollow_and_one_may_be_missing() -> None:
    rows: Rows = [(STANDARD, [Interval(1.0), None]), (STRONG, [Interval(0.5), Interval(0.5)])]
    drawing = small_multiple(rows, str, frozenset({"AT 0.1"}))
    assert [(mark.network.label, mark.hollow) for mark in drawing.marks] == [
        ("Standard", True), ("AT 0.1", True), ("AT 0.1", False),
    ]  # fmt: skip
    above, below = (label.y for label in drawing.labels)
    assert (above, below) == (41.0, 66.0)


def test_one_network_and_many_of_one_strength_stay_in_the_frame() -> None:
    assert small_multiple([(STRONG, [Interval(0.0)])], str, frozenset()).marks[0].x == 160.0
    rows = [(network(f"M{place}", f"M{place}", 0.1), [Interval(1.0)]) for place in range(40)]
    places = [mark.x for mark in small_multiple(rows, str, frozenset()).marks]
    assert 0 <= min(places) < max(places) <= 320
    assert len(set(places)) == 40


def test_values_of_neighbours_do_not_lie_on_each_other() -> None:
    rows = [(one, [Interval(0.5)]) for one in (STRONG, AWP)]
    drawing = small_multiple(rows, str, frozenset({"AT 0.1", "AT+AWP 0.1"}))
    marks, labels = drawing.marks, drawing.labels
    assert labels[1].x - labels[0].x == 46.0
    assert sum(label.x for label in labels) == sum(mark.x for mark in marks)
