"""Plots of the page: texts escaped, numbers short, and which networks a trace belongs to."""

import json

from helpers.troubled_study import MARKUP
from robustlens.report.data import ReportData
from robustlens.report.drawing.plotly import figure_json, panel_json
from robustlens.report.drawing.spec import Axis, Panel, Series
from robustlens.report.figures import figures


def test_every_trace_says_whose_it_is_and_is_finite(study: ReportData) -> None:
    for drawn in figures(study):
        views = figure_json(drawn, study.networks)
        assert len(views) == (0 if drawn.gallery else len(drawn.views))
        json.dumps(views, allow_nan=False)
        for trace in (trace for view in views for panel in view["panels"] for trace in panel["data"]):
            assert trace["meta"]["of"]
            assert trace["meta"]["style"] == trace["meta"]["of"][-1]


def test_texts_are_escaped_and_numbers_have_five_digits(study: ReportData) -> None:
    panel = Panel("title", Axis(MARKUP), Axis("y"), (Series("Standard", (MARKUP,), (0.123456789,)),))
    shown = panel_json(panel, study.networks)
    assert shown["layout"]["xaxis"]["title"]["text"] == "$\\alpha$ &lt;b&gt;x&lt;/b&gt;"
    (trace,) = shown["data"]
    assert (trace["x"], trace["y"]) == (["$\\alpha$ &lt;b&gt;x&lt;/b&gt;"], [0.12346])
