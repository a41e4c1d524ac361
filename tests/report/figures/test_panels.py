"""Panels by category: dots of networks side by side, in the page, on paper and in the CSV."""

import pytest

from helpers.report_figures import figure
from robustlens.report.data import ReportData
from robustlens.report.drawing.plotly import panel_json
from robustlens.report.drawing.spec import Axis, Series, category_ticks
from robustlens.report.figures.panels import category_panel


def test_dots_of_one_category_stand_side_by_side_in_the_order_of_the_categories() -> None:
    series = [Series("A", ("fc", "conv"), (1.0, 2.0)), Series("B", ("conv",), (3.0,))]
    panel = category_panel("Spread", "layer", ("conv", "unused", "fc"), Axis("std"), series)
    assert panel.x.categories == ("conv", "fc")
    assert [one.mark for one in panel.series] == ["points", "points"]
    one, other = (drawn.drawn_x(panel.x) for drawn in panel.series)
    assert one == pytest.approx((0.94, -0.06))
    assert other == pytest.approx((0.06,))
    assert [point["x"] for point in panel.series[0].points()] == ["fc", "conv"]


@pytest.mark.parametrize("name", ["spectrum-spread", "activation-spread", "feature-change", "by-class"])
def test_layers_and_classes_are_not_joined_by_lines(study: ReportData, name: str) -> None:
    panels = [
        panel for view in figure(study, name).views for panel in view.panels if panel.x.kind == "category"
    ]
    assert panels
    for panel in panels:
        drawn = panel_json(panel, study.networks)
        assert {trace["mode"] for trace in drawn["data"]} == {"markers"}
        assert drawn["layout"]["xaxis"]["ticktext"] == list(panel.x.categories)
        assert len({trace["x"][0] for trace in drawn["data"]}) == len(study.networks)
        assert drawn["data"][0]["text"] == list(panel.x.categories)
        assert "%{text}" in drawn["data"][0]["hovertemplate"]


def test_of_many_categories_every_nth_is_named() -> None:
    axis = Axis("layer", kind="category", categories=tuple(f"layer{place}" for place in range(110)))
    ticks = category_ticks(axis)
    assert len(ticks) == 22
    assert ticks[:2] == ((0.0, "layer0"), (5.0, "layer5"))
