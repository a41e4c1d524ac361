"""The bar from certified to attacked accuracy, and the same numbers as text."""

from pathlib import Path

import pytest

from helpers.attacked_runs import attacked_run, attacked_seeds, split_of
from helpers.report_figures import figure
from robustlens.report.reading import read_run
from robustlens.report.results_document import results
from robustlens.report.text.headline import headline
from robustlens.stats.intervals import wilson


def test_a_bar_reaches_from_certified_to_attacked_accuracy(tmp_path: Path) -> None:
    attacked_run(tmp_path, {"test": split_of(certified={"crown": wilson(12, 40)})})
    data = read_run(tmp_path)
    drawn = figure(data, "certified")
    (panel,) = drawn.views[0].panels
    (bar,) = panel.series
    assert panel.title == "Test images, crown"
    assert (bar.y, bar.low, bar.high) == ((0.3,), (0.3,), (0.5,))
    (table,) = drawn.tables
    ((_, cells),) = table.rows
    assert cells == ("30.0 (18.1 to 45.4)", "50.0 (35.2 to 64.8)", "20.0")
    column = next(column for column in headline(data).columns if column.key == "certified:crown")
    assert column.title == "Certified (crown)"
    number = results(data, headline(data)).networks[0].numbers["certified:crown"]
    assert number is not None
    assert number.value == 0.3
    assert number.low == pytest.approx(wilson(12, 40).low)


def test_seeds_are_averaged(tmp_path: Path) -> None:
    splits = [split_of(certified={"ibp": wilson(count, 40)}) for count in (8, 10, 12)]
    (bar,) = figure(attacked_seeds(tmp_path, splits), "certified").views[0].panels[0].series
    assert bar.y[0] == pytest.approx(0.25)
    assert bar.high[0] == pytest.approx(0.5)


def test_without_a_certificate_there_is_no_bar(tmp_path: Path) -> None:
    attacked_run(tmp_path, {"test": split_of()})
    data = read_run(tmp_path)
    drawn = figure(data, "certified")
    assert drawn.views == ()
    assert drawn.tables == ()
    assert "certify" in drawn.missing
    assert not any(column.key.startswith("certified") for column in headline(data).columns)
