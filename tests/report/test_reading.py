"""Reading of study and run folders: typed, once, and around what is damaged."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.measured_more import measure_more
from helpers.report_figures import figure
from helpers.study_files import QUICKSTART, write_study
from helpers.troubled_study import MARKUP, NASTY, NASTY_IMAGE, write_troubled_study
from robustlens.config import LAST, Checkpoint, Recipe
from robustlens.errors import StateError, StoppedError
from robustlens.report.figures import figures
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.headline import headline, notices, quantity
from robustlens.results import Run, Stage, StudyFolder, StudyRecord


def test_a_folder_without_a_study_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"study\.json: no such file"):
        read_study(tmp_path)
    with pytest.raises(StateError, match="no run here"):
        read_run(tmp_path)
    StudyFolder(tmp_path).write_record(StudyRecord())
    with pytest.raises(StateError, match="no list of runs"):
        read_study(tmp_path)


def test_every_problem_of_a_run_is_named_and_none_hides_another_run(tmp_path: Path) -> None:
    data = read_study(write_troubled_study(tmp_path))
    text = "\n".join(f"{who}: {what}" for who, what in notices(data))
    assert f"Failed 0.1: failed: loss became NaN {NASTY_IMAGE}" in text
    assert "New 0.1: not started" in text
    assert "Damaged 0.1: damaged-0.1-s0/evaluation.json: damaged JSON" in text
    assert "Damaged 0.1: damaged-0.1-s0/explanation.safetensors: damaged" in text
    assert f"Bare 0.1: gradients vanish {NASTY_IMAGE} (test images)" in text
    rows = {row.network.label: row for row in headline(data).rows}
    assert len(rows) == 9
    assert rows["Failed 0.1"].message == f"failed: loss became NaN {NASTY_IMAGE}"
    assert rows["Bare 0.1"].message == ""
    labels = ["Standard", "AT 0.05", "AT 0.1", f"{NASTY} 0.1", f"{MARKUP} 0.1"]
    assert figure(data, "margins").labels() == labels


def test_a_run_that_the_system_does_not_let_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_study(tmp_path)
    read = Run.evaluation

    def evaluation(run: Run, other: Checkpoint | None = None) -> object:
        if run.folder.name == "at-0.1-s0":
            raise PermissionError(13, "Permission denied", str(run.folder / "evaluation.json"))
        return read(run, other)

    monkeypatch.setattr(Run, "evaluation", evaluation)
    data = read_study(folder)
    assert ("AT 0.1", "at-0.1-s0/evaluation.json: Permission denied") in [(w, t) for w, t in notices(data)]
    assert sum(network.runs[0].evaluation is not None for network in data.networks) == len(data.networks) - 1


def test_a_report_of_the_folder_that_one_is_in_bears_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(StudyFolder(write_study(tmp_path / "study")).runs()[0].folder, run)
    monkeypatch.chdir(run)
    assert read_run(Path()).name == read_run(run).name == "caf\\udce9"


def test_standard_training_has_no_strength_whatever_its_recipe_says(tmp_path: Path) -> None:
    run = Run(tmp_path / "mine")
    run.bind(Recipe(objective="standard"))
    (network,) = read_run(run.folder).networks
    assert (network.eps, network.label) == (0.0, "Standard")


@pytest.mark.parametrize("where", [Run, StudyFolder])
def test_a_stop_while_a_study_is_read_is_no_problem_of_a_run(where, tmp_path, monkeypatch):
    def stopped(*arguments: object) -> None:
        raise StoppedError("stopped by SIGINT")

    folder = write_troubled_study(tmp_path)
    monkeypatch.setattr(where, *(("evaluation", stopped) if where is Run else ("claims", property(stopped))))
    with pytest.raises(StoppedError):
        read_study(folder)


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "recipe.json",
        "metrics.jsonl",
        "evaluation.json",
        "evaluation.safetensors",
        "explanation.json",
        "explanation.safetensors",
        "evaluation-last.json",
        "explanation-last.json",
    ],
)
def test_a_flipped_bit_is_named_and_leaves_everything_else_as_it_was(tmp_path: Path, name: str) -> None:
    folder = measure_more(write_study(tmp_path, members=QUICKSTART[:3], n=60))
    whole = read_study(folder)
    path = folder / "runs/at-0.05-s0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    data = read_study(folder)
    ((who, what),) = {(who, what.partition(": ")[0]) for who, what in notices(data) if name in what}
    assert (who, what) == ("AT 0.05", f"at-0.05-s0/{name}")
    for drawn, before in zip(figures(data), figures(whole), strict=True):
        others = [
            [row for row in one.rows() if row["label"] not in ("AT 0.05", "AT")] for one in (drawn, before)
        ]
        points = [{(row["view"], row["panel"], row["label"]) for row in rows} for rows in others]
        assert points[0] <= points[1]
        assert {label for *_, label in points[0]} == {label for *_, label in points[1]}


def test_every_result_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = measure_more(write_study(tmp_path, members=QUICKSTART[:3], n=60))
    reads: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads[str(path)] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    figures(read_study(folder))
    results = {path: count for path, count in reads.items() if Path(path).stem not in ("run", "study")}
    assert len(results) == 3 * len(("recipe", "metrics", *(["evaluation", "explanation"] * 4)))
    assert set(results.values()) == {1}


def test_measures_of_other_weights_than_those_attacked_are_shown_with_a_notice(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], n=60)
    run = StudyFolder(folder).runs()[0]
    explanation = run.explanation()
    assert explanation is not None
    provenance = replace(explanation.provenance, checkpoint=LAST)
    run.write("explanation", replace(explanation, provenance=provenance))
    data = read_study(folder)
    assert data.runs[0].explanation is not None
    said = [what for _, what in notices(data) if "checkpoint" in what]
    assert said == ["measures are of the last checkpoint, accuracies of the best one"]


def of_another_plan(run: Run, stage: Stage, other: Checkpoint | None = None, **fields: Any) -> None:
    """Let a result have been made by a plan with these fields."""
    result = run.result(stage, other)
    assert result is not None
    provenance = replace(result.provenance, plan={**result.provenance.plan, **fields})
    run.write(stage, replace(result, provenance=provenance), other)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"threat": {"norm": "Linf", "eps": 0.3}}, "threat.eps: 0.3 -> 0.1"),
        ({"restarts": 5}, "restarts: 5 -> 1"),
        ({"checkpoint": "last"}, "checkpoint: 'last' -> 'best'"),
    ],
)
def test_an_evaluation_of_another_plan_than_the_studys_is_left_out_and_named(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = write_study(tmp_path, seeds=2, members=QUICKSTART[:2], n=60)
    before = read_study(folder).networks[1].runs[0].after("cw-20")
    run = StudyFolder(folder).run("at-0.05-s1")
    of_another_plan(run, "evaluation", **fields)
    data = read_study(folder)
    assert quantity(data.networks[1], "attack:cw-20") == before
    assert headline(data).rows[1].cells["seeds"].text == "1 of 2"
    assert [what for who, what in notices(data) if who == "AT 0.05, seed 1"] == [
        "done, but without an evaluation that counts; see the notes",
        f"at-0.05-s1/evaluation.json: of another plan than the study's ({said}), and left out; "
        "run the study again",
    ]
    StudyFolder(folder).write_record(replace(data.study, evaluation={}))
    assert read_study(folder).networks[1].runs[1].evaluation is not None
    assert read_run(run.folder).runs[0].evaluation is not None


def test_evaluations_along_training_of_another_plan_are_left_out_too(tmp_path: Path) -> None:
    folder = measure_more(write_study(tmp_path, members=QUICKSTART[:2], n=60))
    run = StudyFolder(folder).runs()[0]
    of_another_plan(run, "evaluation", LAST, restarts=5, checkpoint="last")
    of_another_plan(run, "explanation", Checkpoint("epoch", 1), seed=3)
    of_another_plan(run, "evaluation", Checkpoint("epoch", 1), checkpoint="epoch-0001")
    data = read_study(folder)
    first, last = data.runs[0].other_checkpoints
    assert first.evaluation is not None
    assert (first.explanation, last.evaluation) == (None, None)
    assert last.explanation is not None
    problems = "\n".join(data.runs[0].problems)
    assert "evaluation-last.json: of another plan than the study's (restarts: 5 -> 1)" in problems
    assert "explanation of epoch-0001: of another plan than the study's (seed: 3 -> 0)" in problems


def test_a_measure_of_other_options_than_the_studys_is_left_out_alone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=2, members=QUICKSTART[:2], n=60)
    run = StudyFolder(folder).run("at-0.05-s1")
    of_another_plan(run, "explanation", options={"landscape": {"steps": 5}}, batch_size=7)
    data = read_study(folder)
    assert len(data.networks[1].arrays("landscape", "alpha")) == 1
    assert len(data.networks[1].arrays("margins", "test_index")) == 2
    assert [what for who, what in notices(data)] == [
        "incomplete: not all measures of its explanation are there",
        "landscape of best: of another plan than the study's, and left out; run the study again",
    ]
    of_another_plan(run, "explanation", examples=7)
    assert read_study(folder).networks[1].runs[1].explanation is None


def test_checkpoints_beside_the_chosen_one_are_in_order(tmp_path: Path) -> None:
    folder = measure_more(write_study(tmp_path, members=QUICKSTART[:2], n=60))
    run = read_study(folder).runs[0]
    assert [(str(at.checkpoint), at.epoch) for at in run.other_checkpoints] == [
        ("epoch-0001", 1),
        ("last", 8),
    ]
    assert run.last is run.other_checkpoints[1]
    assert run.last.checkpoint == LAST
    assert run.checkpoint is None
