"""What the report says of each attack: counts, suites, times, flags, and the accuracy over radii."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.study_files import QUICKSTART, example_claims, write_study
from helpers.troubled_study import NASTY, NASTY_IMAGE
from robustlens.report import data as collect
from robustlens.report import figures, write_run
from robustlens.report.data import ReportData
from robustlens.report.drawing import matplotlib as files
from robustlens.report.drawing.spec import Series
from robustlens.report.page import rendering as page
from robustlens.report.text import attacks as by_attack
from robustlens.report.text import flags, headline
from robustlens.report.text import summary as prose
from robustlens.report.text.attacks import Line
from robustlens.results.folders import Run, write_json
from robustlens.stats.intervals import wilson

N = 40
STOOD = {"fgsm": 30, "apgd-ce": 24, "apgd-t": 21, "square": 21, "min-norm": 20}
"""How many of 40 images are still right after each attack; 36 are without."""
SECONDS = {"fgsm": 0.5, "apgd-ce": 2.0, "apgd-t": 30.0, "square": 8.0, "min-norm": 4.0}
PARTS = ["apgd-ce", "apgd-t", "square"]
EXPLAINED = {
    "name": "softmax",
    "message": "rows sum to one; gradients vanish; return the logits",
    "raised_if": "all rows sum to one",
    "means": "gradients vanish",
    "todo": "return the logits",
}


def rate(right: int, n: int = N) -> dict[str, Any]:
    found = wilson(right, n)
    return {"value": found.value, "low": found.low, "high": found.high}


def part(stood: Mapping[str, int] = STOOD, *, clean: int = 36, **more: Any) -> dict[str, Any]:
    """What `evaluation.json` says of one split."""
    return {
        "n": N,
        "clean": rate(clean),
        "by_attack": {name: rate(right) for name, right in stood.items()},
        "robust": rate(list(stood.values())[-1]),
        "curve": [{"eps": eps, **rate(20)} for eps in (0.0, 0.1, 0.2)],
        "flags": [],
        "notes": [],
        "seconds": {name: SECONDS[name] for name in stood},
        **more,
    }


def run_folder(folder: Path, splits: Mapping[str, Any], **more: Any) -> Run:
    """A run that has an evaluation and nothing else."""
    run = Run(folder)
    content = {
        "threat": {"norm": "Linf", "eps": 0.1, "bounds": [0.0, 1.0]},
        "attacks": list(STOOD),
        "suites": {"standard": PARTS},
        "splits": dict(splits),
        "gaps": {},
    }
    run.write_json("evaluation", content | more)
    return run


def seeds_of(folder: Path, every: Sequence[Mapping[str, Any]]) -> ReportData:
    """A study of one network, trained once for each of the test splits."""
    entries = []
    for seed, test in enumerate(every):
        run_folder(folder / f"runs/s{seed}", {"test": test})
        entries.append({"folder": f"runs/s{seed}", "label": "AT", "method": "AT", "eps": 0.1, "seed": seed})
    write_json(folder / "study.json", {"name": "seeds", "runs": entries})
    return collect.study(folder)


def lines_of(study: ReportData, split: str = "test") -> dict[str, Line]:
    (block,) = by_attack.by_attack(study, split)
    return {line.name: line for line in block.lines}


def shown_page(study: ReportData) -> str:
    """The page without its figures."""
    return page._page(study, [], headline.headline(study))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return collect.study(write_study(tmp_path_factory.mktemp("study"), suite=True, claims=example_claims()))


# -- what each attack did --------------------------------------------------------------------------


def test_an_attack_is_given_what_stands_and_breaks_some_of_it(tmp_path: Path) -> None:
    study = collect.single(run_folder(tmp_path, {"test": part()}).folder)
    lines = lines_of(study)
    told = {name: (line.images, line.broken, line.seconds) for name, line in lines.items()}
    assert told == {
        "clean": (40, 4, None),
        "fgsm": (36, 6, 0.5),
        "standard": (30, 9, 40.0),
        "apgd-ce": (30, 6, 2.0),
        "apgd-t": (24, 3, 30.0),
        "square": (21, 0, 8.0),
        "min-norm": (36, 1, 4.0),  # it measures distances, so it had all that were right
    }
    assert [line.kind for line in lines.values()] == [
        "clean", "attack", "suite", "member", "member", "member", "attack",
    ]  # fmt: skip
    assert lines["standard"].right == lines["square"].right == wilson(21, N)
    assert lines["standard"].before == lines["apgd-ce"].before == 0.75
    assert lines["clean"].before == 1


def test_a_minimum_norm_attack_without_a_curve_is_given_survivors_only(tmp_path: Path) -> None:
    study = collect.single(run_folder(tmp_path, {"test": part(curve=[])}).folder)
    assert lines_of(study)["min-norm"].images == 21


def test_files_of_the_first_version_have_attacks_without_suites_and_times(tmp_path: Path) -> None:
    old = part({"fgsm": 30, "apgd-ce": 24})
    for key in ("notes", "seconds"):
        del old[key]
    run = run_folder(tmp_path, {"test": old}, attacks=["fgsm", "apgd-ce"])
    content = run.read_json("evaluation") or {}
    del content["suites"]
    run.write_json("evaluation", content)
    study = collect.single(tmp_path)
    (attacked,) = by_attack.by_split(study)
    assert [(line.kind, line.images, line.broken) for line in attacked.blocks[0].lines] == [
        ("clean", 40, 4),
        ("attack", 36, 6),
        ("attack", 30, 6),
    ]
    assert not attacked.timed
    assert not attacked.searched
    assert ">Time</th>" not in shown_page(study)
    assert list(study.columns) == ["fgsm", "apgd-ce"]


def test_over_seeds_everything_is_a_mean(tmp_path: Path) -> None:
    other = part({"fgsm": 27, "apgd-ce": 27, "apgd-t": 18, "square": 17, "min-norm": 17}, clean=33)
    other["seconds"] = {name: 3 * seconds for name, seconds in SECONDS.items()}
    study = seeds_of(tmp_path, [part(), other])
    lines = lines_of(study)
    assert (lines["fgsm"].images, lines["fgsm"].broken, lines["fgsm"].seconds) == (34.5, 6, 1.0)
    assert (lines["standard"].images, lines["standard"].broken) == (28.5, 9.5)
    assert lines["standard"].seconds == 80.0
    right = lines["square"].right
    assert (right.value, right.low, right.high) == pytest.approx((19 / 40, 17 / 40, 21 / 40))
    text = shown_page(study)
    assert '<td class="number">34.5</td>' in text
    assert '<td class="number">6.0</td>' in text
    assert "images and times are means" in text


def test_an_interval_below_zero_has_a_real_minus_sign(tmp_path: Path) -> None:
    """Shares 0, 0 and 0.75: Student's interval of their mean begins below zero."""
    study = seeds_of(tmp_path, [part({"fgsm": right}) for right in (0, 0, 30)])
    low = 25 - 4.302652730 * 100 * np.std([0, 0, 0.75], ddof=1) / np.sqrt(3)
    assert low < 0
    assert f"\N{MINUS SIGN}{-low:.1f} to" in shown_page(study)


def test_a_seed_that_was_not_evaluated_changes_nothing(tmp_path: Path) -> None:
    seeds_of(tmp_path, [part(), part(clean=33)])
    (tmp_path / "runs/s1/evaluation.json").unlink()
    assert lines_of(collect.study(tmp_path)) == lines_of(collect.single(tmp_path / "runs/s0"))


def test_a_network_without_an_evaluation_has_no_block_and_none_at_all_no_section(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], n=60)
    (folder / "runs/standard-0-s0/evaluation.json").unlink()
    study = collect.study(folder)
    assert [block.group.label for block in by_attack.by_attack(study, "train")] == ["AT 0.05"]
    assert 'id="attacks"' in shown_page(study)
    (folder / "runs/at-0.05-s0/evaluation.json").unlink()
    text = shown_page(collect.study(folder))
    assert 'id="attacks"' not in text
    assert 'href="#attacks"' not in text


def test_the_csv_has_both_splits_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "drawings", lambda *_: {})
    run_folder(tmp_path / "run", {"test": part(), "train": part(clean=38)})
    write_run(tmp_path / "run", tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "figures" / "attacks.csv").read_text())))
    assert [(row["split"], row["attack"]) for row in rows[6:9]] == [
        ("test", "min-norm"),
        ("train", "clean"),
        ("train", "fgsm"),
    ]
    assert [row["kind"] for row in rows[:4]] == ["clean", "attack", "suite", "member"]
    assert float(rows[8]["broken"]) == 8
    third = wilson(21, N)
    assert (float(rows[2]["value"]), float(rows[2]["low"]), float(rows[2]["high"])) == (
        third.value,
        third.low,
        third.high,
    )
    assert float(rows[2]["seconds"]) == 40


# -- the headline and its sentence ------------------------------------------------------------------


def test_a_suite_is_one_column_that_counts_after_its_last_attack(suite: ReportData) -> None:
    table = headline.headline(suite)
    columns = {column.key: column for column in table.columns if column.key.startswith("attack:")}
    assert list(columns) == [
        "attack:fgsm", "attack:pgd-20", "attack:cw-20", "attack:standard", "attack:min-norm",
    ]  # fmt: skip
    assert columns["attack:standard"].title == "Standard suite"
    hint = columns["attack:standard"].hint
    assert "Standard suite (APGD-CE, APGD-T, FAB-T and Square) and after FGSM, PGD-20 and CW-20." in hint
    for row in table.rows:
        (test,) = row.group.values("splits", "test")
        told = headline.measured(row.group, "attack:standard")
        assert told is not None
        assert told.value == row.cells["attack:standard"].value == test["by_attack"]["square"]["value"]
    assert {row["column"] for row in table.csv_rows()} >= set(columns)


def test_runs_with_different_attacks_fill_their_own_columns(tmp_path: Path) -> None:
    study = seeds_of(tmp_path, [part(), part({"fgsm": 28})])
    run_folder(tmp_path / "runs/s1", {"test": part({"fgsm": 28})}, attacks=["fgsm"], suites={})
    study = collect.study(tmp_path)
    assert list(study.columns) == ["fgsm", "standard", "min-norm"]
    (group,) = study.groups
    assert group.right_after("standard") == wilson(21, N)
    after = group.right_after("fgsm")
    assert after is not None
    assert after.value == pytest.approx(29 / 40)


def test_the_sentence_names_a_suite_and_its_attacks(suite: ReportData) -> None:
    wanted = (
        "by FGSM, PGD-20, CW-20, the standard suite (APGD-CE, APGD-T, FAB-T and Square) and a minimum-norm"
    )
    assert wanted in " ".join(prose.summary(suite))


# -- flags and notes --------------------------------------------------------------------------------


def test_a_kind_of_flag_is_explained_once_with_all_that_was_seen(tmp_path: Path) -> None:
    other = {**EXPLAINED, "message": "rows sum to two; gradients vanish; return the logits"}
    study = seeds_of(tmp_path, [part(flags=[EXPLAINED]), part(flags=[EXPLAINED, other])])
    (kind,) = flags.explained(study)
    assert kind.raised == (
        ("AT, seed 0", "rows sum to one (test images)"),
        ("AT, seed 1", "rows sum to one (test images)"),
        ("AT, seed 1", "rows sum to two (test images)"),
    )
    assert (kind.flag.raised_if, kind.flag.means, kind.flag.todo) == (
        "all rows sum to one",
        "gradients vanish",
        "return the logits",
    )
    assert headline.notices(study) == []
    (block,) = by_attack.by_attack(study, "test")
    assert block.flags == {"softmax": "rows sum to one; rows sum to two"}


def test_what_was_seen_on_both_splits_is_told_once(tmp_path: Path) -> None:
    flagged = part(flags=[EXPLAINED])
    study = collect.single(run_folder(tmp_path / "AT", {"test": flagged, "train": flagged}).folder)
    (kind,) = flags.explained(study)
    assert kind.raised == (("AT", "rows sum to one (test and training images)"),)


def test_a_flag_of_an_older_file_is_told_in_its_one_line(tmp_path: Path) -> None:
    old = {"name": "masking", "message": "gradients vanish; attack again"}
    study = collect.single(run_folder(tmp_path / "AT", {"test": part(flags=[old])}).folder)
    assert flags.explained(study) == []
    assert headline.notices(study) == [("AT", "gradients vanish; attack again (test images)")]
    assert by_attack.by_attack(study, "test")[0].flags == {"masking": "gradients vanish; attack again"}


def test_the_page_says_what_was_seen_what_it_means_and_what_to_do_or_that_there_is_no_flag(
    tmp_path: Path,
) -> None:
    splits = {"test": part(flags=[EXPLAINED], notes=["2 classes: DLR gives way to the margin"])}
    text = shown_page(collect.single(run_folder(tmp_path / "AT", splits).folder))
    for words in (
        "<dd><ul><li><b>AT</b>: rows sum to one (test images)</li></ul></dd>",
        "<dt>It means</dt><dd>Gradients vanish.</dd>",
        "<dt>What to do</dt><dd>Return the logits.</dd>",
        "<dt>Raised if</dt><dd>All rows sum to one.</dd>",
        '<p class="note">2 classes: DLR gives way to the margin</p>',
    ):
        assert words in text
    assert "No reliability flag" not in text
    sound = shown_page(collect.single(run_folder(tmp_path / "sound", {"test": part()}).folder))
    assert "No reliability flag" in sound
    assert 'id="notices"' not in sound


def test_flags_and_notes_are_shown_as_text_whatever_they_say(tmp_path: Path) -> None:
    hostile = {key: f"{key} {NASTY}" for key in EXPLAINED}
    splits = {"test": part(flags=[hostile, {"name": NASTY_IMAGE}], notes=[NASTY])}
    text = shown_page(collect.single(run_folder(tmp_path, splits, suites={NASTY: PARTS}).folder))
    assert NASTY not in text
    assert NASTY_IMAGE not in text
    assert text.count("&lt;script&gt;") >= 7


# -- accuracy over radii ----------------------------------------------------------------------------


DISTANCE = np.array([0.0, 0.02, 0.1, 0.1 + 5e-7, 0.1 + 5e-6, 0.15, 0.2, np.inf])
"""A clean mistake; a float32 pixel may lie 5e-7 outside without being outside; no point found."""


def with_distances(run: Run, distance: np.ndarray, curve: Sequence[float] = (0.0, 0.1, 0.2)) -> None:
    points = [{"eps": eps, **rate(int((distance > eps).sum()), len(distance))} for eps in curve]
    content = run.read_json("evaluation") or {}
    content["splits"]["test"]["curve"] = points
    run.write_result("evaluation", content, {"test/distance": distance})


def curve_of(study: ReportData) -> dict[float, tuple[float, float, float]]:
    line = curve_series(study)
    return {float(x): ends for x, *ends in zip(line.x, line.y, line.low, line.high, strict=True)}


def curve_series(study: ReportData) -> Series:
    (panel,) = figures.figures(study)[0].views[0].panels
    return panel.series[0]


def test_the_curve_is_the_share_of_distances_beyond_each_radius(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"test": part()})
    with_distances(run, DISTANCE)
    study = collect.single(tmp_path)
    curve = curve_of(study)
    assert 50 <= len(curve) <= 60
    assert list(curve) == sorted(curve)
    for eps, right in ((0.0, 7), (0.1, 4), (0.2, 1)):
        wanted = wilson(right, 8)
        assert tuple(curve[eps]) == (wanted.value, wanted.low, wanted.high)
    for eps, (value, _, _) in curve.items():
        beyond = (eps + 1e-6 if eps else 0) < DISTANCE
        assert value == pytest.approx(beyond.mean())
    figure = figures.figures(study)[0]
    assert "minimum-norm distances" in figure.note
    assert "upper bound" in figure.note
    assert figure.views[0].panels[0].rules == ((0.1, "eps of the table"),)


def test_seeds_of_a_curve_are_combined_as_everywhere(tmp_path: Path) -> None:
    study = seeds_of(tmp_path, [part(), part()])
    for record, distance in zip(study.records, (DISTANCE, DISTANCE / 2), strict=True):
        with_distances(record.run, distance)
    assert tuple(curve_of(collect.study(tmp_path))[0.1]) == pytest.approx(((4 + 1) / 16, 1 / 8, 4 / 8))


def test_without_every_seeds_distances_the_stored_points_are_drawn(tmp_path: Path) -> None:
    study = seeds_of(tmp_path, [part(), part()])
    with_distances(study.records[0].run, DISTANCE)
    study = collect.study(tmp_path)
    assert curve_series(study).mark == "both"
    assert list(curve_of(study)) == [0.0, 0.1, 0.2]
    assert "minimum-norm" not in figures.figures(study)[0].note


def test_distances_of_attacks_that_did_not_search_for_the_nearest_point_are_not_drawn(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"test": part()})
    with_distances(run, DISTANCE, curve=())
    assert figures.figures(collect.single(tmp_path))[0].views == ()


def test_the_rounding_that_is_forgiven_goes_with_the_range_of_the_pixels(tmp_path: Path) -> None:
    threat = {"norm": "Linf", "eps": 25.5, "bounds": [0.0, 255.0]}
    run = run_folder(tmp_path, {"test": part()}, threat=threat)
    with_distances(run, 255 * DISTANCE, curve=(0.0, 25.5))
    assert curve_of(collect.single(tmp_path))[25.5][0] == 4 / 8


def test_damaged_distances_are_told_and_the_stored_points_drawn(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"test": part()})
    with_distances(run, DISTANCE)
    (tmp_path / "evaluation.safetensors").write_bytes(b"{ not what it was")
    study = collect.single(tmp_path)
    assert curve_series(study).mark == "both"
    assert any("evaluation.safetensors: damaged" in what for _, what in headline.notices(study))


def test_the_curve_agrees_with_the_stored_points_of_a_study(suite: ReportData) -> None:
    panel = figures.figures(suite)[0].views[0].panels[0]
    for group, line in zip(suite.groups, panel.series, strict=True):
        drawn = dict(zip(line.x, line.y, strict=True))
        (curve,) = group.values("splits", "test", "curve")
        assert [drawn[point["eps"]] for point in curve] == [point["value"] for point in curve]
        assert drawn[0.1] == group.interval("splits", "test", "robust").value  # type: ignore[union-attr]
