"""The headline table: columns, means over seeds, what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.attacked_runs import N, attacked_run, attacked_seeds, split_of
from helpers.made_networks import ATTACKS
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.headline import headline, interval_caption, notices, quantity
from robustlens.report.text.summary import summary
from robustlens.results import StudyFolder
from robustlens.stats.intervals import wilson


def test_the_table_equals_the_evaluation_files(study: ReportData, study_folder: Path) -> None:
    rows = headline(study).csv_rows()
    for network in study.networks:
        path = study_folder / "runs" / network.runs[0].name / "evaluation.json"
        content = json.loads(path.read_text())
        wanted = {"clean": content["splits"]["test"]["clean"]}
        wanted |= {f"attack:{name}": content["splits"]["test"]["by_attack"][name] for name in ATTACKS}
        wanted |= {f"gap:{name}": gap for name, gap in content["gaps"].items()}
        shown = {row["column"]: row for row in rows if row["label"] == network.label}
        for column, interval in wanted.items():
            assert {key: shown[column][key] for key in interval} == interval


def test_three_seeds_make_one_row_with_their_mean(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=3, members=QUICKSTART[:2], n=60)
    data = read_study(folder)
    table = headline(data)
    assert [row.network.label for row in table.rows] == ["Standard", "AT 0.05"]
    paths = [folder / f"runs/at-0.05-s{seed}/evaluation.json" for seed in range(3)]
    values = [json.loads(path.read_text())["gaps"]["robust"]["value"] for path in paths]
    cell = table.rows[1].cells["gap:robust"]
    assert cell.value == pytest.approx(np.mean(values))
    assert table.rows[1].cells["seeds"].text == "0, 1, 2"
    assert "3 seeds each" in summary(data)[0]


def test_two_seeds_without_a_right_image_look_no_more_certain_than_one(tmp_path: Path) -> None:
    attacked_seeds(tmp_path, [split_of(clean=0), split_of(clean=0)])
    cell = headline(read_study(tmp_path)).rows[0].cells["clean"]
    one = wilson(0, N)
    assert (cell.text, cell.interval) == ("0.0", f"0.0 to {100 * (one.high or 0):.1f}")


def test_time_is_that_of_processors_where_every_epoch_has_it(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], n=60)
    assert headline(read_study(folder)).rows[0].cells["seconds"].text
    for run in StudyFolder(folder).runs():
        epochs = [replace(epoch, cpu_seconds=2.0 * epoch.epoch) for epoch in run.metrics()]
        run.truncate_metrics(0)
        for epoch in epochs:
            run.append_metrics(epoch)
    table = headline(read_study(folder))
    assert "seconds" not in table.rows[0].cells
    mean = np.mean([2.0 * epoch.epoch for epoch in epochs])
    assert table.rows[0].cells["cpu_seconds"].value == pytest.approx(mean)
    assert {column.unit for column in table.columns if column.title == "Time"} == {"CPU s/epoch"}


def test_a_suite_is_one_column_that_counts_after_its_last_attack(suite_study: ReportData) -> None:
    table = headline(suite_study)
    columns = {column.key: column for column in table.columns if column.key.startswith("attack:")}
    assert list(columns) == [
        "attack:fgsm", "attack:pgd-20", "attack:cw-20", "attack:standard", "attack:min-norm",
    ]  # fmt: skip
    assert columns["attack:standard"].title == "Standard suite"
    hint = columns["attack:standard"].hint
    assert "Standard suite (APGD-CE, APGD-T, FAB-T and Square) and after FGSM, PGD-20 and CW-20." in hint
    for row in table.rows:
        (test,) = row.network.splits("test")
        shown = quantity(row.network, "attack:standard")
        assert shown is not None
        assert shown.value == row.cells["attack:standard"].value == test.by_attack["square"].value
    assert {row["column"] for row in table.csv_rows()} >= set(columns)


def test_runs_with_different_attacks_fill_their_own_columns(tmp_path: Path) -> None:
    attacked_seeds(tmp_path, [split_of(), split_of({"fgsm": 28})])
    attacked_run(tmp_path / "runs/s1", {"test": split_of({"fgsm": 28})}, attacks=("fgsm",), suites={})
    data = read_study(tmp_path)
    assert list(data.columns) == ["fgsm", "standard", "min-norm"]
    (network,) = data.networks
    assert quantity(network, "attack:standard") == wilson(21, N)
    after = quantity(network, "attack:fgsm")
    assert after is not None
    assert after.value == pytest.approx(29 / 40)


def test_a_row_without_an_evaluation_says_why(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=2, members=QUICKSTART[:2], n=60)
    for name in ("standard-0-s0", "standard-0-s1", "at-0.05-s0"):
        (folder / "runs" / name / "evaluation.json").unlink()
    standard, robust = headline(read_study(folder)).rows
    assert standard.message == "done, but its evaluation is missing"
    assert (robust.message, robust.cells["seeds"].text) == ("", "1 of 2")


@pytest.mark.parametrize(("left", "meanings"), [(3, ["three"]), (2, ["two", "three"]), (1, ["one", "three"])])
def test_the_caption_explains_intervals_of_as_many_seeds_as_have_a_result(
    tmp_path: Path, left: int, meanings: list[str]
) -> None:
    folder = write_study(tmp_path, seeds=3, members=QUICKSTART[:2], n=60)
    for seed in range(left, 3):
        (folder / f"runs/at-0.05-s{seed}/evaluation.json").unlink()
    text = interval_caption(read_study(folder)).lower()
    assert [name for name in ("one", "two", "three") if f"{name} seed" in text] == meanings


def test_a_folder_with_an_explanation_alone_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60) / "runs/standard-0-s0"
    for path in folder.iterdir():
        if path.stem != "explanation":
            path.unlink()
    data = read_run(folder)
    assert headline(data).rows[0].message == "explained, not evaluated"
    assert notices(data) == []
    assert summary(data)[-1] != "1 of 1 runs has no evaluation yet; see the notes."
