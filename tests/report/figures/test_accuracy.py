"""Figures of accuracy: against the evaluation's own numbers, and against strength."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.attacked_runs import attacked_run, attacked_seeds, curve_of, split_of
from helpers.report_figures import figure, series
from helpers.troubled_study import change_test_split
from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Series
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.headline import notices
from robustlens.results import Run, ThreatRecord
from robustlens.stats.intervals import wilson

DISTANCE = np.array([0.0, 0.02, 0.1, 0.1 + 5e-7, 0.1 + 5e-6, 0.15, 0.2, np.inf])
"""A clean mistake; a float32 pixel may lie 5e-7 outside without being outside; no point found."""


def with_distances(run: Run, distance: np.ndarray, radii: Sequence[float] = (0.0, 0.1, 0.2)) -> None:
    """Give the test images of a run these distances, and the curve that follows from them."""
    right = [int((distance > eps).sum()) for eps in radii]
    curve = curve_of(radii, right, len(distance))
    change_test_split(run, curve=curve, arrays={"distance": distance})


def curve_series(data: ReportData) -> Series:
    (panel,) = figure(data, "robust-accuracy").views[0].panels
    return panel.series[0]


def drawn_curve(data: ReportData) -> dict[float, tuple[float, ...]]:
    """Value, low and high by radius."""
    line = curve_series(data)
    return {float(x): ends for x, *ends in zip(line.x, line.y, line.low, line.high, strict=True)}  # type: ignore[misc]


def test_the_accuracy_curve_is_that_of_the_evaluation(study: ReportData, study_folder: Path) -> None:
    content = json.loads((study_folder / "runs/trades-0.1-s0/evaluation.json").read_text())
    curve = content["splits"]["test"]["curve"]
    line = series(figure(study, "robust-accuracy"), "Test images", "TRADES 0.1")
    for name, drawn in (("eps", line.x), ("value", line.y), ("low", line.low), ("high", line.high)):
        assert list(drawn) == [point[name] for point in curve]


def test_the_curve_is_the_share_of_distances_beyond_each_radius(tmp_path: Path) -> None:
    with_distances(attacked_run(tmp_path, {"test": split_of()}), DISTANCE)
    data = read_run(tmp_path)
    curve = drawn_curve(data)
    assert 50 <= len(curve) <= 60
    assert list(curve) == sorted(curve)
    for eps, right in ((0.0, 7), (0.1, 4), (0.2, 1)):
        wanted = wilson(right, 8)
        assert tuple(curve[eps]) == (wanted.value, wanted.low, wanted.high)
    for eps, (value, _, _) in curve.items():
        beyond = (eps + 1e-6 if eps else 0) < DISTANCE
        assert value == pytest.approx(beyond.mean())
    drawn = figure(data, "robust-accuracy")
    assert "minimum-norm distances" in drawn.note
    assert "upper bound" in drawn.note
    assert drawn.views[0].panels[0].rules == ((0.1, "eps of the table"),)


def test_seeds_of_a_curve_are_combined_as_everywhere(tmp_path: Path) -> None:
    data = attacked_seeds(tmp_path, [split_of(), split_of()])
    for run, distance in zip(data.runs, (DISTANCE, DISTANCE / 2), strict=True):
        with_distances(run.source, distance)
    ends = wilson(1, 8).low, wilson(4, 8).high
    assert tuple(drawn_curve(read_study(tmp_path))[0.1]) == pytest.approx(((4 + 1) / 16, *ends))


def test_without_every_seeds_distances_the_stored_points_are_drawn(tmp_path: Path) -> None:
    with_distances(attacked_seeds(tmp_path, [split_of(), split_of()]).runs[0].source, DISTANCE)
    data = read_study(tmp_path)
    assert curve_series(data).mark == "both"
    assert list(drawn_curve(data)) == [0.0, 0.1, 0.2]
    assert "minimum-norm" not in figure(data, "robust-accuracy").note


def test_distances_of_attacks_that_did_not_search_for_the_nearest_point_are_not_drawn(tmp_path: Path) -> None:
    with_distances(attacked_run(tmp_path, {"test": split_of()}), DISTANCE, radii=())
    assert figure(read_run(tmp_path), "robust-accuracy").views == ()


def test_the_rounding_that_is_forgiven_goes_with_the_range_of_the_pixels(tmp_path: Path) -> None:
    run = attacked_run(tmp_path, {"test": split_of()}, threat=ThreatRecord("Linf", 25.5, (0.0, 255.0)))
    with_distances(run, 255 * DISTANCE, radii=(0.0, 25.5))
    assert drawn_curve(read_run(tmp_path))[25.5][0] == 4 / 8


def test_damaged_distances_are_named_and_the_stored_points_drawn(tmp_path: Path) -> None:
    with_distances(attacked_run(tmp_path, {"test": split_of()}), DISTANCE)
    (tmp_path / "evaluation.safetensors").write_bytes(b"{ not what it was")
    data = read_run(tmp_path)
    assert curve_series(data).mark == "both"
    assert any("evaluation.safetensors: damaged" in what for _, what in notices(data))


def test_the_curve_agrees_with_the_stored_points_of_a_study(suite_study: ReportData) -> None:
    panel = figure(suite_study, "robust-accuracy").views[0].panels[0]
    for network, line in zip(suite_study.networks, panel.series, strict=True):
        drawn = dict(zip(line.x, line.y, strict=True))
        (part,) = network.splits("test")
        assert [drawn[point.eps] for point in part.curve] == [point.value for point in part.curve]
        assert drawn[0.1] == part.robust.value


def test_the_line_of_a_method_starts_at_the_standard_network(study: ReportData) -> None:
    panels = figure(study, "strength").views[0].panels
    panel = next(panel for panel in panels if panel.title.startswith("Robust acc"))
    threads = [line for line in panel.series if line.mark == "thread"]
    assert [line.label for line in threads] == ["AT"]
    assert threads[0].x == (0.0, 0.05, 0.1, 0.2)
    standard = next(line for line in panel.series if line.label == "Standard")
    assert threads[0].y[0] == standard.y[0]


def test_networks_of_one_strength_are_drawn_beside_one_another_but_keep_their_strength(
    study: ReportData,
) -> None:
    strength = figure(study, "strength")
    panel = strength.views[0].panels[0]
    at_one_tenth = [line for line in panel.series if line.mark == "points" and line.x == (0.1,)]
    first, second, third = (float(line.drawn_x(panel.x)[0]) for line in at_one_tenth)
    # The axis is 0.2 long: its 25th part clears a marker of 9 pixels on a plot of 240.
    assert (second - first, third - second) == pytest.approx((0.008, 0.008))
    assert {row["x"] for row in strength.rows() if row["label"] == "AT+AWP 0.1"} == {0.1}


def test_networks_of_one_method_and_strength_are_beside_one_another_too(study: ReportData) -> None:
    """Without a second strength, and with one name for both methods, markers still do not hide each other."""
    same = [replace(network, method="AT", eps=0.1) for network in study.networks[2:4]]
    panel = figure(replace(study, networks=tuple(same)), "strength").views[0].panels[0]
    (one,), (other,) = (line.drawn_x(panel.x) for line in panel.series)
    assert (one, other) == pytest.approx((0.098, 0.102))


def test_axes_of_robust_accuracy_name_the_radius(study: ReportData) -> None:
    titles = [panel.y.title for panel in figure(study, "strength").views[0].panels]
    assert titles[:2] == ["accuracy", "accuracy at Linf eps 0.1"]
    assert titles[-1] == "train - test at Linf eps 0.1"
