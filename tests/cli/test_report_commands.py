"""`robustlens report` of two runs."""

import json
from pathlib import Path

import pytest

from helpers.study_files import write_study
from robustlens import cli


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), n=100) / "runs"


def test_two_runs_are_compared_on_the_terminal_and_on_a_page(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(["report", str(runs / "at-0.1-s0"), str(runs / "at-awp-0.1-s0")]) == 0
    said = capsys.readouterr().out
    page = runs / "at-0.1-s0" / "report" / "against-at-awp-0.1-s0" / "index.html"
    assert "On 100 test images, paired" in said
    assert "recipe: awp.gamma" in said
    assert f"report: {page}" in said
    assert page.is_file()


def test_json_is_all_that_stands_on_standard_output(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "report",
        str(runs / "at-0.1-s0"),
        str(runs / "standard-0-s0"),
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert cli.run(command) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["a"]["name"] == "at-0.1-s0"
    assert content["report"] == str(tmp_path / "index.html")
    assert content["accuracy"][0]["changes"][0]["counts"]


def test_a_study_is_not_compared_with_a_run(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["report", str(runs.parent), str(runs / "at-0.1-s0")]) == 7
    assert "is a study; name two of its runs" in capsys.readouterr().err
