"""Draws a `Figure` for papers: PDF and SVG through matplotlib, and the numbers as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from robustlens.report.data import Network
from robustlens.report.drawing.palette import Style
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Surface, View

MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "star": "*",
    "triangle-down": "v",
    "hexagon": "h",
    "x": "X",
}
DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
SETTINGS: Any = {
    "pdf.fonttype": 42,  # TrueType inside: editable, and accepted by publishers
    "svg.hashsalt": "robustlens",  # the same data, the same bytes
    "text.parse_math": False,  # a label with a dollar sign is a label
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#5c6470",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": "#5c6470",
    "ytick.color": "#5c6470",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def csv_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as CSV, numbers in full precision; empty cells where there is no interval."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def drawings(figure: Figure, view: View, groups: Sequence[Network]) -> dict[str, bytes]:
    """One view of a figure as {"pdf": ..., "svg": ...}."""
    with mpl.rc_context(SETTINGS):
        canvas = _canvas(view, groups)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # laid out once, not once a format
        found = {}
        for kind, metadata in (
            ("pdf", {"Title": figure.title, "CreationDate": None}),
            ("svg", {"Title": figure.title, "Date": None}),
        ):
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=kind, metadata=metadata)
            found[kind] = buffer.getvalue()
    return found


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula is disarmed."""
    if isinstance(value, str) and value[:1] in tuple("=+-@"):
        return "'" + value
    return value


def _canvas(view: View, groups: Sequence[Network]) -> Canvas:
    count = len(view.panels)
    columns = min(count, 3)
    rows = -(-count // columns)
    canvas = Canvas(figsize=(2.5 * columns + 0.2, 2.15 * rows + 0.45), layout="constrained")
    FigureCanvasAgg(canvas)
    for place, panel in enumerate(view.panels, start=1):
        in_space = panel.relief is not None and panel.relief.mark == "surface"
        ax = canvas.add_subplot(rows, columns, place, projection="3d" if in_space else None)
        _draw_panel(ax, panel, groups)
    shown = {series.label for panel in view.panels for series in panel.series}
    shown |= {panel.relief.label for panel in view.panels if panel.relief}
    handles = [_handle(group) for group in groups if group.label in shown]
    lines = -(-len(handles) // (2 * columns)) or 1
    canvas.legend(handles=handles, loc="outside lower center", ncols=max(1, -(-len(handles) // lines)))
    return canvas


def _draw_panel(ax: Axes, panel: Panel, groups: Sequence[Network]) -> None:
    ax.set_title(panel.title, pad=13 if panel.rules else None)
    for x, text in panel.rules:
        ax.axvline(x, color="#9aa3ad", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(text, (x, 1), (0, 2), ha="center", va="bottom", fontsize=6.5, color="#5c6470", **place)
    for series in panel.series:
        _draw_series(ax, series, groups)
    if panel.relief:
        _draw_relief(ax, panel.relief)
    _set_axis(ax, "x", panel.x)
    _set_axis(ax, "y", panel.y)


def _draw_series(ax: Axes, series: Series, groups: Sequence[Network]) -> None:
    thread = series.mark == "thread"
    own = [g.style for g in groups if (g.method if thread else g.label) == series.label]
    look: Style = own[-1]
    x: Any = series.drawn_x()
    colour, marker = look.light, MARKERS[look.symbol]
    if thread:
        ax.plot(x, series.y, color=colour, linewidth=0.8, alpha=0.5, zorder=2)
    elif series.mark == "points":
        bars = np.abs(np.array([series.low, series.high]) - series.y) if series.low else None
        ax.errorbar(x, series.y, yerr=bars, fmt=marker, color=colour, elinewidth=1, capsize=2, zorder=4)
    else:
        style: dict[str, Any] = {"color": colour, "linestyle": DASHES[look.dash], "zorder": 3}
        if series.mark == "steps":
            style["drawstyle"] = "steps-post"
        if series.mark == "both":
            style["marker"] = marker
        ax.plot(x, series.y, **style)
        if series.low:
            ax.fill_between(x, series.low, series.high, color=colour, alpha=0.14, linewidth=0, zorder=2)


def _draw_relief(ax: Any, relief: Surface) -> None:
    if relief.mark == "surface":
        ax.plot_surface(*np.meshgrid(relief.x, relief.y), np.array(relief.z), cmap="viridis")
        return
    colours = ax.contourf(relief.x, relief.y, np.array(relief.z), levels=12, cmap="viridis")
    ax.figure.colorbar(colours, ax=ax, label=relief.axis.title)


def _set_axis(ax: Axes, which: str, axis: Axis) -> None:
    ax.set(**{f"{which}label": axis.title})
    handle = getattr(ax, f"{which}axis")
    if axis.kind == "log":
        ax.set(**{f"{which}scale": "log"})
    if axis.percent:
        handle.set_major_formatter(FuncFormatter(lambda value, place: f"{round(100 * value, 6):g}%"))
    if axis.ticks:
        low, high = axis.range or (-np.inf, np.inf)
        ticks = [(value, text) for value, text in axis.ticks if low <= value <= high]
        handle.set_ticks([value for value, _ in ticks], [text for _, text in ticks])
        handle.set_minor_locator(NullLocator())
    if axis.range:
        ax.set(**{f"{which}lim": axis.range})
    if axis.kind == "category" and which == "x":
        ax.tick_params(axis="x", rotation=45)


def _handle(group: Network) -> Line2D:
    look = group.style
    return Line2D(
        [], [], color=look.light, linestyle=DASHES[look.dash], marker=MARKERS[look.symbol], label=group.label
    )
