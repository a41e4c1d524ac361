"""Planes, the loss around images, curvature and flatness in the report, against the run files."""

from pathlib import Path

import numpy as np
import pytest

from helpers.study_files import write_study
from robustlens.report import data as collect
from robustlens.report.data import Interval, ReportData
from robustlens.report.drawing import matplotlib as files
from robustlens.report.drawing import plotly as plotly_json
from robustlens.report.drawing.spec import Figure, Surface, View
from robustlens.report.figures import landscape as plots_landscape
from robustlens.results.folders import Run

GRID = np.array([-1.0, 0.0, 0.5])
# Not symmetric: a along the first axis rises three times as fast as b along the second.
PLANE = 1 + 3 * GRID[:, None] + GRID[None, :]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_study(tmp_path_factory.mktemp("study"), n=60)
    for place, path in enumerate(sorted((folder / "runs").iterdir())):
        run = Run(path)
        arrays = {key: run.array("explanation", key) for key in run.array_names("explanation")}
        for grid, name in (("plane_alpha", "plane"), ("input_radius", "input")):
            kinds = ("loss", "matched", "error") if name == "plane" else ("loss", "error")
            arrays |= {f"landscape/test_{name}_{kind}": PLANE for kind in kinds}
            arrays[f"landscape/{grid}"] = GRID
        arrays["curvature/test_relative_nodes"] = np.array([[0.0, 10.0]])
        arrays["curvature/test_relative_weights"] = np.array([[0.9, 0.1]])
        content = run.read_json("explanation") or {}
        content["measures"]["flatness"] = {"value": {"average": {"loss": 1.0 + place}}}
        run.write_result("explanation", content, arrays)
    return collect.study(folder)


def relief(figure: Figure, view: int, panel: int = 0) -> Surface:
    found = figure.views[view].panels[panel].relief
    assert found is not None
    return found


def test_each_network_is_seen_from_above_first_and_then_in_space(study: ReportData) -> None:
    figure, labels = plots_landscape.plane(study), [group.label for group in study.groups]
    assert [view.name for view in figure.views] == [*labels, *(f"{label}, in space" for label in labels)]
    marks = [relief(figure, view).mark for view in range(len(figure.views))]
    assert marks == ["contour"] * len(labels) + ["surface"] * len(labels)
    titles = [panel.title for panel in figure.views[0].panels]
    assert titles == ["Adversarial loss", "At matched temperature", "Adversarial error rate"]
    assert len(plots_landscape.around_images(study).views[0].panels) == 2


def test_the_first_direction_lies_along_x_everywhere(study: ReportData) -> None:
    figure = plots_landscape.plane(study)
    seen = relief(figure, 0)
    assert seen.x == seen.y == tuple(GRID)
    assert seen.z[0][2] - seen.z[0][1] == pytest.approx(1.5)  # a from 0 to 0.5
    assert seen.z[2][0] - seen.z[1][0] == pytest.approx(0.5)
    for view in (0, len(study.groups)):
        panel = plotly_json.panel_json(figure.views[view].panels[0], study.groups)
        (trace,) = panel["data"]
        assert trace["type"] == ("contour", "surface")[view > 0]
        assert trace["z"] == [list(row) for row in seen.z]
        assert trace["meta"]["of"] == [0]
        assert ("scene" in panel["layout"]) == (view > 0)
    first = figure.rows()[2]
    assert (first["x"], first["y"], first["z"]) == (0.5, -1.0, 1.5)


@pytest.mark.parametrize("view", [0, -1])
def test_reliefs_are_drawn_for_papers(study: ReportData, view: int) -> None:
    figure = plots_landscape.around_images(study)
    one = View("", figure.views[view].panels[:1])
    drawn = files.drawings(figure, one, study.groups)
    assert drawn["pdf"].startswith(b"%PDF")
    assert b"Loss" in drawn["svg"] or b"svg" in drawn["svg"]


def test_flatness_is_drawn_against_the_robust_gap_of_adversarially_trained_networks(
    study: ReportData,
) -> None:
    figure = plots_landscape.flatness_and_gap(study)
    by_name = {view.name: view.panels[0] for view in figure.views}
    assert set(by_name) == {"Landscape rise", "Matched landscape rise", "Average case"}
    trained = [group for group in study.groups if group.eps > 0]
    for name, path in (
        ("Landscape rise", ("landscape", "rise", "0.5")),
        ("Average case", ("flatness", "average", "loss")),
    ):
        assert [series.label for series in by_name[name].series] == [group.label for group in trained]
        for series, group in zip(by_name[name].series, trained, strict=True):
            assert series.x == tuple(group.measured(*path))
            gap = group.interval("gaps", "robust")
            assert gap is not None
            assert (series.y, series.low, series.high) == ((gap.value,), (gap.low,), (gap.high,))


def test_checkpoints_of_one_network_are_points_of_one_series() -> None:
    points = [("AT", 1.0, Interval(0.1)), ("AWP", 0.5, Interval(0.05)), ("AT", 2.0, Interval(0.3))]
    first, second = plots_landscape.scatter("Gap", "rise", points).series
    assert (first.label, first.x, first.y) == ("AT", (1.0, 2.0), (0.1, 0.3))
    assert (second.label, second.x, second.y) == ("AWP", (0.5,), (0.05,))


def test_epochs_along_training_are_drawn_in_order(tmp_path: Path) -> None:
    folder = write_study(tmp_path, n=60)
    trained = [group for group in collect.study(folder).groups if group.eps > 0]
    assert plots_landscape.along_training(collect.study(folder)).views == ()
    for epoch, ending in ((2, "-epoch-0002"), (30, "-last"), (10, "-epoch-0010")):
        for record in (record for group in trained for record in group.records):
            record.run.update_status(epochs_done=30)
            gaps = {"gaps": {"robust": {"value": epoch / 100}}}
            rise = {"landscape": {"value": {"rise": {"0.5": 2.0 * epoch}}}}
            record.run.write_json(f"evaluation{ending}", gaps)
            record.run.write_json(f"explanation{ending}", {"measures": rise})
    study = collect.study(folder)
    (view,) = plots_landscape.along_training(study).views
    gap, rise_panel = view.panels
    assert [(line.x, line.y) for line in gap.series] == [((2.0, 10.0, 30.0), (0.02, 0.1, 0.3))] * len(trained)
    assert rise_panel.series[0].y == (4.0, 20.0, 60.0)
    _, last, paths = plots_landscape.flatness_and_gap(study).views[0].panels
    assert last.title.startswith("Last checkpoint")
    assert (last.series[0].x, last.series[0].y) == ((60.0,), (0.3,))
    assert paths.title == "Along training"
    assert (paths.series[0].x, paths.series[0].y) == ((4.0, 20.0, 60.0), (0.02, 0.1, 0.3))


def test_the_density_of_eigenvalues_has_the_weights_of_the_quadrature(study: ReportData) -> None:
    figure = plots_landscape.curvature(study)
    assert [view.name for view in figure.views] == ["Relative, at matched temperature"]
    line = figure.views[0].panels[0].series[0]
    x, y = np.array(line.x), np.array(line.y)
    width = 10 / 60
    assert y.max() == pytest.approx(0.9 / (width * np.sqrt(2 * np.pi)), rel=0.02)
    assert np.trapezoid(y[x < 5], x[x < 5]) == pytest.approx(0.9, abs=0.01)
    assert np.trapezoid(y[x > 5], x[x > 5]) == pytest.approx(0.1, abs=0.01)


def test_nothing_measured_is_nothing_drawn(tmp_path: Path) -> None:
    study = collect.study(write_study(tmp_path, n=60))
    for draw in (plots_landscape.plane, plots_landscape.around_images, plots_landscape.curvature):
        assert draw(study).views == ()
