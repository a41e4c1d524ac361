"""Figures as values: shared ranges, thinned series, tidy rows."""

import numpy as np
import pytest

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Axis, Panel, Series, aligned, ecdf, thinned
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


def test_infinite_values_count_in_the_shares_of_a_distribution() -> None:
    assert ecdf(np.array([1.0, np.inf, 2.0, np.inf])) == ((1.0, 2.0), (0.25, 0.5))
    assert ecdf(np.array([1.0, -np.inf, np.nan, 2.0, 3.0])) == ((1.0, 2.0, 3.0), (0.5, 0.75, 1.0))
    assert ecdf(np.array([np.inf, np.nan])) == ecdf(np.array([])) == ((), ())
    x, y = ecdf(np.concatenate([np.arange(1000.0), np.full(1000, np.inf)]), points=50)
    assert (len(x), x[0], x[-1], y[0], y[-1]) == (50, 0.0, 999.0, 0.0005, 0.5)


def test_a_larger_study_still_makes_a_small_page(study: ReportData) -> None:
    large = ReportData("large", study.networks * 6)
    points = sum(len(row) for drawn in figures(large) for row in drawn.rows())
    assert points < 7 * sum(len(row) for drawn in figures(study) for row in drawn.rows())
