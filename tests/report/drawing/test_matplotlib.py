"""Drawings for papers: reproducible, in the colours of the page, with any label as plain text."""

from pathlib import Path

import pytest

from helpers.report_figures import figure
from helpers.troubled_study import MARKUP, NASTY, write_troubled_study
from robustlens.report.data import ReportData
from robustlens.report.drawing import plotly
from robustlens.report.drawing.matplotlib import drawings
from robustlens.report.drawing.spec import Axis, Figure, Panel, Surface, View
from robustlens.report.reading import read_study
from robustlens.report.text.headline import headline


def test_the_same_data_makes_the_same_bytes(study: ReportData) -> None:
    strength = figure(study, "strength")
    once, again = (drawings(strength, strength.views[0], study.networks) for _ in range(2))
    assert once == again


def test_the_same_style_reaches_the_table_the_plots_and_the_drawings(study: ReportData) -> None:
    network = study.networks[1]
    accuracy = figure(study, "robust-accuracy")
    panel = accuracy.views[0].panels[0]
    traces = plotly.panel_json(panel, study.networks)["data"]
    trace = next(trace for trace in traces if trace["name"] == network.label)
    assert headline(study).rows[1].network.style is network.style
    assert trace["meta"]["of"] == [1]
    drawing = drawings(accuracy, View("", (panel,)), study.networks)
    assert network.style.light in drawing["svg"].decode()


def test_drawings_take_any_label_as_plain_text(tmp_path: Path) -> None:
    data = read_study(write_troubled_study(tmp_path))
    accuracy = figure(data, "robust-accuracy")
    svg = drawings(accuracy, accuracy.views[0], data.networks)["svg"].decode()
    assert NASTY not in svg
    assert f"{MARKUP} 0.1" in accuracy.labels()


@pytest.mark.parametrize("mark", ["contour", "surface"])
def test_surfaces_are_drawn(study: ReportData, mark: str) -> None:
    heights = ((0.0, 1.0), (2.0, 3.0))
    surface = Surface("Standard", (0.0, 1.0), (0.0, 1.0), heights, Axis("loss"), mark)  # type: ignore[arg-type]
    view = View("", (Panel("Loss", Axis("a"), Axis("b"), surface=surface),))
    drawing = drawings(Figure("name", "section", "title", "look for", (view,)), view, study.networks)
    assert drawing["pdf"].startswith(b"%PDF")
    assert b"<svg" in drawing["svg"]
