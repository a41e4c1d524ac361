"""What the terminal shows: the numbers of the page, in words that people read."""

from pathlib import Path

import pytest
from rich.console import Console

from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.cli import tables
from robustlens.report.reading import read_study
from robustlens.report.text.headline import headline
from robustlens.results import (
    EvaluationResult,
    Measurement,
    Provenance,
    SplitResult,
    StudyFolder,
    ThreatRecord,
)
from robustlens.stats.intervals import Interval


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "output", Console(width=250, highlight=False))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_terminal_has_the_numbers_and_intervals_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: int
) -> None:
    folder = write_study(tmp_path, seeds=seeds, members=QUICKSTART[:2], n=60)
    tables.headline(StudyFolder(folder))
    said = capsys.readouterr().out
    for row in headline(read_study(folder)).rows:
        for key in ("clean", "attack:cw-20", "gap:robust"):
            cell = row.cells[key]
            assert cell.text in said
            assert cell.interval
            assert cell.interval in said
    meaning = ("one seed: over images", "too few for an interval over seeds", "Student's")[seeds - 1]
    assert meaning.casefold() in said.casefold()


@pytest.mark.usefixtures("wide")
def test_claims_are_shown_with_their_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60, claims=example_claims())
    tables.claims(StudyFolder(folder))
    said = capsys.readouterr().out
    for verdict in ("described: as claimed", "described: opposite", "described: unclear"):
        assert said.count(verdict) == 1
    assert "supported" not in said
    assert "3 claims of the papers were tested." in said


@pytest.mark.usefixtures("wide")
def test_no_minus_before_a_zero_and_no_minus_between_two_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    split = SplitResult(60, Interval(0.5, 0.4, 0.6), Interval(0.5), Interval(0.5))
    gap = Interval(-1.11e-16, -0.06, 0.06)
    result = EvaluationResult(
        Provenance(None, "", "", None, {}), ThreatRecord("Linf", 0.1), (), {"test": split}, {"robust": gap}
    )
    tables.evaluation(result)
    said = capsys.readouterr().out
    assert "50.0 40.0 to 60.0" in said
    assert "robust gap: 0.0000 (-0.0600 to 0.0600)" in said
    assert tables._percent(gap).plain == "0.0 -6.0 to 6.0"
    tables.measurements({"margins": Measurement({"change": -1.11e-16, "s_min": 1e-17}, "", "", "", {})})
    said = capsys.readouterr().out
    assert "change  0\n" in said
    assert "s_min  1e-17" in said


def test_a_number_that_a_file_cannot_hold_is_shown_alike_before_and_after(capsys):
    for value in (float("nan"), None):
        tables.measurements({"margins": Measurement({"temperature": value}, "", "", "", {})})
        assert "temperature  nan\n" in capsys.readouterr().out
