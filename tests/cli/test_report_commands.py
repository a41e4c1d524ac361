"""`robustlens report` of two runs."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.study_files import write_study
from robustlens import cli
from robustlens.cli import tables
from robustlens.results import Run


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


def test_comparisons_have_folders_of_their_own_and_are_not_written_through_a_link(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, mine = tmp_path / "s1" / "a", tmp_path / "mine"
    shutil.copytree(runs / "at-0.1-s0", a)
    shutil.rmtree(a / "report", ignore_errors=True)
    for study in ("s2", "s3"):
        shutil.copytree(runs / "at-awp-0.1-s0", tmp_path / study / "b")
        assert cli.run(["report", str(a), str(tmp_path / study / "b")]) == 0
    assert sorted(path.name for path in (a / "report").iterdir()) == ["against-s2-b", "against-s3-b"]
    shutil.rmtree(a / "report")
    mine.mkdir()
    (a / "report").symlink_to(mine)
    assert cli.run(["report", str(a), str(tmp_path / "s2" / "b")]) == 7
    assert "is a link out of" in capsys.readouterr().err
    assert not list(mine.iterdir())


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


def test_verify_names_each_file_in_json(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["verify", str(runs / "at-0.1-s0"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["damaged"] == 0
    assert {Path(one["path"]).name for one in content["files"]} >= {
        "recipe.json",
        "evaluation.json",
        "metrics.jsonl",
    }


def test_a_report_of_one_run_in_json_is_its_results_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["report", str(runs / "standard-0-s0"), "--out", str(tmp_path), "--figures", "none", "--json"]
    assert cli.run(command) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert f"report: {tmp_path / 'index.html'}" in said.err
    assert not list((tmp_path / "figures").glob("*.pdf"))


def test_the_summary_of_an_explanation_has_at_most_twelve_lines(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    explanation = Run(runs / "at-0.1-s0").explanation()
    assert explanation
    tables.measurements_summary(explanation.measures)
    lines = capsys.readouterr().out.splitlines()
    confidence = explanation.measures["margins"].number("test", "confidence")
    assert confidence
    assert len(lines) <= 12
    assert f"margins: confidence on test images: {confidence:.3g}" in lines
    assert lines[-1].endswith("number: the same command with --all")


def test_schemas_are_printed(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["schema", "results"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["networks"]["type"] == "array"
    assert cli.run(["schema", "novel"]) == 2
