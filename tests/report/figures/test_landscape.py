"""Landscapes along directions, over planes and around images, against the run files."""

from pathlib import Path

import numpy as np
import pytest

from helpers.measured_more import extend_explanation, made, measure_more
from helpers.report_figures import figure, series
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.drawing.plotly import panel_json
from robustlens.report.drawing.spec import Figure, Surface
from robustlens.report.reading import read_study

GRID = np.array([-1.0, 0.0, 0.5])
# Not symmetric: a along the first axis rises three times as fast as b along the second.
PLANE = 1 + 3 * GRID[:, None] + GRID[None, :]


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_study(tmp_path_factory.mktemp("study"), n=60)
    arrays = {f"test_plane_{kind}": PLANE for kind in ("loss", "matched", "error")}
    arrays |= {f"test_input_{kind}": PLANE for kind in ("loss", "error")}
    for run in read_study(folder).runs:
        grids = {"plane_alpha": GRID, "input_radius": GRID}
        extend_explanation(run.source, {"landscape": made({}, arrays | grids)})
    return read_study(folder)


def surface(drawn: Figure, view: int) -> Surface:
    shown = drawn.views[view].panels[0].surface
    assert shown is not None
    return shown


def test_the_landscape_is_the_mean_over_images_with_the_range_over_directions(study: ReportData) -> None:
    network = study.networks[2]
    (loss,) = network.arrays("landscape", "test_loss")
    by_draw = loss.astype(np.float64).mean(2)
    line = series(figure(study, "landscape"), "Adversarial loss", network.label)
    assert line.y == pytest.approx(by_draw.mean(1))
    assert line.high == pytest.approx(by_draw.max(1))
    rise = series(figure(study, "landscape"), "Adversarial loss", network.label, view=1)
    assert rise.y == pytest.approx((by_draw - by_draw[len(by_draw) // 2]).mean(1))


@pytest.mark.parametrize(("name", "kind"), [("landscape", "alpha"), ("landscape-plane", "plane_alpha")])
def test_seeds_measured_on_another_grid_of_the_same_length_are_in_no_mean(
    tmp_path: Path, name: str, kind: str
) -> None:
    folder = measure_more(write_study(tmp_path, members=QUICKSTART[:2], seeds=2, n=60))
    run = read_study(folder).networks[1].runs[1].source
    own = run.explanation()
    assert own is not None
    alpha = own.measures["landscape"].arrays[kind]
    heights = {key: array + 1000 for key, array in own.measures["landscape"].arrays.items() if "_" in key}
    extend_explanation(run, {"landscape": made({}, heights | {kind: 2 * alpha})})
    after = figure(read_study(folder), name)
    (folder / "runs/at-0.05-s1/explanation.json").unlink()
    assert after.rows() == figure(read_study(folder), name).rows()


def test_each_network_is_seen_from_above_first_and_then_in_space(planes: ReportData) -> None:
    drawn, labels = figure(planes, "landscape-plane"), [network.label for network in planes.networks]
    assert [view.name for view in drawn.views] == [*labels, *(f"{label}, in space" for label in labels)]
    marks = [surface(drawn, view).mark for view in range(len(drawn.views))]
    assert marks == ["contour"] * len(labels) + ["surface"] * len(labels)
    titles = [panel.title for panel in drawn.views[0].panels]
    assert titles == ["Adversarial loss", "At matched temperature", "Adversarial error rate"]
    assert len(figure(planes, "landscape-input").views[0].panels) == 2


def test_the_first_direction_lies_along_x_everywhere(planes: ReportData) -> None:
    drawn = figure(planes, "landscape-plane")
    seen = surface(drawn, 0)
    assert seen.x == seen.y == tuple(GRID)
    assert seen.z[0][2] - seen.z[0][1] == pytest.approx(1.5)  # a from 0 to 0.5
    assert seen.z[2][0] - seen.z[1][0] == pytest.approx(0.5)
    for view in (0, len(planes.networks)):
        panel = panel_json(drawn.views[view].panels[0], planes.networks)
        (trace,) = panel["data"]
        assert trace["type"] == ("contour", "surface")[view > 0]
        assert trace["z"] == [list(row) for row in seen.z]
        assert trace["meta"]["of"] == [0]
        assert ("scene" in panel["layout"]) == (view > 0)
    first = drawn.rows()[2]
    assert (first["x"], first["y"], first["z"]) == (0.5, -1.0, 1.5)


def test_nothing_measured_is_nothing_drawn(study: ReportData, study_folder: Path) -> None:
    for name in ("landscape-plane", "landscape-input", "curvature"):
        assert figure(study, name).views == ()
