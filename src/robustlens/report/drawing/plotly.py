"""Figures for the page: plotly's JSON, small, in the light colours; the page's script repaints it.

Texts are untrusted (labels, layer names) and plotly reads a little HTML in them, so they are escaped here.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from robustlens.report.data import Network
from robustlens.report.drawing.palette import Style
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Surface, category_ticks

_DRAWING_ORDER = ("thread", "steps", "line", "both", "points")  # of marks: the last lies on top


def figure_json(figure: Figure, networks: Sequence[Network]) -> list[dict[str, Any]]:
    """The views of a figure: name, name of the drawing, and its panels for plotly."""
    return [
        {
            "name": view.name,
            "file": figure.file_of(view),
            "panels": [{"title": panel.title, **panel_json(panel, networks)} for panel in view.panels],
        }
        for view in (() if figure.gallery else figure.views)  # the page has the pictures of a gallery
    ]


def panel_json(panel: Panel, networks: Sequence[Network]) -> dict[str, Any]:
    """One panel as a plotly figure.

    `meta.of` of a trace are the positions of the networks that it belongs to (it hides with the last of
    them), `meta.style` the position whose colours it has, `meta.role` what is to be coloured.
    """
    if panel.surface:
        return _surface(panel, panel.surface, networks)
    ordered = sorted(panel.series, key=lambda series: _DRAWING_ORDER.index(series.mark))
    layout: dict[str, Any] = {
        "xaxis": _axis(panel.x),
        "yaxis": _axis(panel.y),
        "hovermode": "x unified" if _shares_x(panel) else "closest",
    }
    if panel.rules:
        layout["shapes"] = [
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"} for x, _ in panel.rules
        ]
        layout["annotations"] = [
            {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "text": _text(text)}
            for x, text in panel.rules
        ]
    return {"data": [trace for one in ordered for trace in _traces(one, panel, networks)], "layout": layout}


def _traces(series: Series, panel: Panel, networks: Sequence[Network]) -> list[dict[str, Any]]:
    thread = series.mark == "thread"
    places = series.places(networks)
    style = networks[places[-1]].style
    trace: dict[str, Any] = {
        "x": _numbers(series.drawn_x(panel.x)),
        "y": _numbers(series.y),
        "mode": {"points": "markers", "both": "lines+markers"}.get(series.mark, "lines"),
        "name": _text(series.label),
        "meta": {"of": places, "style": places[-1], "role": "thread" if thread else "line"},
        "hovertemplate": _hover(panel),
    }
    if panel.x.categories:
        trace["text"] = [_text(str(category)) for category in series.x]
    if thread:
        trace |= {"hoverinfo": "skip", "hovertemplate": "", "line": {"color": style.light, "width": 1.2}}
        return [trace]
    if series.mark != "points":
        trace["line"] = {"color": style.light, "dash": style.dash, "width": 2}
    if series.mark == "steps":
        trace["line"]["shape"] = "hv"
    if series.mark in ("points", "both"):
        size = 9 if series.mark == "points" else 7
        trace["marker"] = {"color": style.light, "symbol": style.symbol, "size": size}
    if series.low and series.mark == "points":
        trace["error_y"] = _whiskers(series)
    elif series.low:
        return [_band(series, trace, style), trace]
    return [trace]


def _whiskers(series: Series) -> dict[str, Any]:
    """Intervals of markers."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_rounded(h - v) for h, v in zip(series.high, series.y, strict=True)],
        "arrayminus": [_rounded(v - b) for b, v in zip(series.low, series.y, strict=True)],
        "thickness": 1.4,
        "width": 3,
    }


def _band(series: Series, line: dict[str, Any], style: Style) -> dict[str, Any]:
    """Intervals around a line: up along the high ends, and back along the low ones."""
    r, g, b = (int(style.light[place : place + 2], 16) for place in (1, 3, 5))
    return {
        "x": line["x"] + line["x"][::-1],
        "y": _numbers(series.high) + _numbers(series.low)[::-1],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": f"rgba({r},{g},{b},0.14)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": line["name"],
        "meta": {**line["meta"], "role": "band"},
    }


def _surface(panel: Panel, surface: Surface, networks: Sequence[Network]) -> dict[str, Any]:
    """Values over a plane; they are coloured by height, alike in light and dark."""
    places = [place for place, network in enumerate(networks) if network.label == surface.label]
    axes = {"xaxis": _axis(panel.x), "yaxis": _axis(panel.y)}
    trace: dict[str, Any] = {
        "type": surface.mark,
        "x": _numbers(surface.x),
        "y": _numbers(surface.y),
        "z": [_numbers(row) for row in surface.z],
        "colorscale": "Viridis",
        "showscale": surface.mark == "contour",
        "name": _text(surface.label),
        "meta": {"of": places, "style": places[-1], "role": "surface"},
        "hovertemplate": "%{x}, %{y}: <b>%{z}</b><extra></extra>",
    }
    if surface.mark == "surface":
        return {"data": [trace], "layout": {"scene": {**axes, "zaxis": _axis(surface.axis)}, **axes}}
    if surface.axis.percent:
        trace["zhoverformat"] = ",.1%"
        trace["colorbar"] = {"tickformat": ",.0%"}
    return {"data": [trace], "layout": {**axes, "hovermode": "closest"}}


def _axis(axis: Axis) -> dict[str, Any]:
    layout: dict[str, Any] = {"title": {"text": _text(axis.title)}}
    ticks = axis.ticks
    if axis.categories:
        ticks = category_ticks(axis)
        layout |= {"range": [-0.5, len(axis.categories) - 0.5], "showgrid": False}
    elif axis.kind != "linear":
        layout["type"] = axis.kind
    if axis.percent:
        layout |= {"tickformat": ",.0%", "hoverformat": ",.1%"}
    elif axis.kind != "category":
        layout["hoverformat"] = ".4~g"
    if ticks:
        layout |= {"tickvals": [value for value, _ in ticks], "ticktext": [_text(t) for _, t in ticks]}
    if axis.range:
        ends = [math.log10(end) for end in axis.range] if axis.kind == "log" else axis.range
        layout["range"] = [_rounded(end) for end in ends]
    return layout


def _hover(panel: Panel) -> str:
    """Text at the pointer: the network and its value; the x as well where every point has its own."""
    if panel.x.categories:
        return "%{fullData.name}, %{text}: <b>%{y}</b><extra></extra>"
    x = "" if _shares_x(panel) or panel.x.ticks else " at %{x}"
    return "%{fullData.name}: <b>%{y}</b>" + x + "<extra></extra>"


def _shares_x(panel: Panel) -> bool:
    """Whether all lines have the same x, so that one pointer can read all of them."""
    lines = [series.x for series in panel.series if series.mark not in ("points", "thread")]
    return bool(lines) and all(x == lines[0] for x in lines) and len(lines[0]) <= 60


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _numbers(values: Sequence[float | str]) -> list[float | str | None]:
    return [_text(value) if isinstance(value, str) else _rounded(value) for value in values]


def _rounded(value: float) -> float | None:
    """Five significant digits: more cannot be seen, and the page stays small. The CSV keeps all of them."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
