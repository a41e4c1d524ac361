"""Figures as values: shared ranges, thinned series, tidy rows."""

import pytest

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Axis, Panel, Series, aligned, thinned
from robustlens.report.figures import figures


def test_panels_that_share_an_axis_share_its_range() -> None:
    def panel(title: str, y: str, values: tuple[float, ...]) -> Panel:
        return Panel(title, Axis("x"), Axis(y), (Series("A", (0.0, 1.0), values),))

    one, other, third = aligned([panel("1", "y", (0, 1)), panel("2", "y", (4, 5)), panel("3", "z", (9, 9.5))])
    assert one.y.range == other.y.range == pytest.approx((-0.2, 5.2))
    assert third.y.range is None


def test_long_series_are_thinned_but_keep_their_ends() -> None:
    kept = thinned(10_000)
    assert len(kept) <= 240
    assert (kept[0], kept[-1]) == (0, 9_999)
    assert list(thinned(3)) == [0, 1, 2]


def test_a_larger_study_still_makes_a_small_page(study: ReportData) -> None:
    large = ReportData("large", study.networks * 6)
    points = sum(len(row) for drawn in figures(large) for row in drawn.rows())
    assert points < 7 * sum(len(row) for drawn in figures(study) for row in drawn.rows())
