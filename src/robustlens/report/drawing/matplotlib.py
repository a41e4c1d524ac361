"""Figures for papers and slides: PDF, SVG and PNG through matplotlib."""

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

from robustlens.errors import ConfigError
from robustlens.report.data import Network
from robustlens.report.drawing.gallery import Drawing, Gallery, Picture
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Surface, View, category_ticks

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 200
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
    "image.composite_image": False,  # every picture keeps its own pixels
    "svg.hashsalt": "robustlens",  # the same data, the same bytes
    "text.parse_math": False,  # a label with a dollar sign is a label
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
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


def checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats of drawings in their order; raises `ConfigError` for one that there is not."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"figures: found {unknown[0]!r}, expected {', '.join(FORMATS)}, all or none")
    return tuple(name for name in FORMATS if name in formats)


def drawings(
    figure: Figure, view: View, networks: Sequence[Network], formats: Sequence[str] = FORMATS
) -> dict[str, bytes]:
    """One view of a figure as {"pdf": ..., "svg": ..., "png": ...}."""
    if not formats:
        return {}
    with mpl.rc_context(SETTINGS):
        canvas = _gallery_canvas(figure.gallery) if figure.gallery else _canvas(view, networks)
        if engine := canvas.get_layout_engine():  # laid out once: with one, each format is drawn twice
            engine.execute(canvas)
            canvas.set_layout_engine(None)
        contents = {}
        dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
        for kind in formats:
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=kind, metadata={"Title": figure.title, **dated[kind]}, dpi=PNG_DPI)
            contents[kind] = buffer.getvalue()
    return contents


def _canvas(view: View, networks: Sequence[Network]) -> Canvas:
    count = len(view.panels)
    columns = min(count, 3)
    rows = -(-count // columns)
    shown = {series.label for panel in view.panels for series in panel.series}
    shown |= {panel.surface.label for panel in view.panels if panel.surface}
    handles = [_handle(network) for network in networks if network.label in shown]
    lines = -(-len(handles) // (2 * columns)) or 1
    legend = 0.2 * max(0, lines - 2)  # two lines have room without it
    canvas = Canvas(figsize=(2.5 * columns + 0.2, 2.15 * rows + 0.45 + legend), layout="constrained")
    FigureCanvasAgg(canvas)
    for place, panel in enumerate(view.panels, start=1):
        in_space = panel.surface is not None and panel.surface.mark == "surface"
        ax = canvas.add_subplot(rows, columns, place, projection="3d" if in_space else None)
        _draw_panel(ax, panel, networks)
    canvas.legend(handles=handles, loc="outside lower center", ncols=max(1, -(-len(handles) // lines)))
    return canvas


def _gallery_canvas(gallery: Gallery) -> Canvas:
    """A gallery on one pair of axes, in units of a picture's side: many axes would take long."""
    width, height = 3.3 * len(gallery.columns) + 1.6, 1.6 * len(gallery.rows) + 0.9
    inch = min(0.5, 7.0 / width)
    canvas = Canvas(figsize=(inch * width, inch * height))
    FigureCanvasAgg(canvas)
    ax = canvas.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    size = 14 * inch
    for column, label in enumerate(gallery.columns):
        left = 1.6 + 3.3 * column
        ax.text(left, 0.25, label, fontsize=1.3 * size, va="center", fontweight="bold")
        for place, kind in enumerate(gallery.kinds):
            ax.text(left + 1.05 * place, 0.65, kind.replace(" ", "\n", 1), fontsize=0.8 * size, va="center")
    for number, row in enumerate(gallery.rows):
        top = 0.95 + 1.6 * number
        _draw_one(ax, row.drawing, 0.1, top)
        ax.text(0.1, top + 1.05, row.name, fontsize=size, va="top", fontweight="bold")
        for column, cell in enumerate(row.cells):
            left = 1.6 + 3.3 * column
            for place, drawing in enumerate(cell.drawings):
                _draw_one(ax, drawing, left + 1.05 * place, top)
            for line, said in enumerate((cell.clean, cell.attacked)):
                text = f"{'' if line == 0 else '→ '}{said.name} {100 * said.confidence:.0f} %"
                colour = "#1d2129" if said.is_right else "#b3341f"
                ax.text(left, top + 1.05 + 0.22 * line, text, fontsize=size, va="top", color=colour)
    ax.set(xlim=(0, width), ylim=(height, 0))
    return canvas


def _draw_one(ax: Axes, drawing: Drawing, left: float, top: float) -> None:
    """A picture, or curves, in the square of side 1."""
    if isinstance(drawing, Picture):
        grey: dict[str, Any] = {} if drawing.pixels.ndim == 3 else {"cmap": "gray", "vmin": 0, "vmax": 255}
        extent = (left, left + 1, top + 1, top)
        ax.imshow(drawing.pixels, extent=extent, interpolation="nearest", aspect="auto", **grey)
        return
    for lines, colour in ((drawing.behind, "#c3c8ce"), (drawing.lines, "#1d2129")):
        for line in lines:
            x, y = np.linspace(left, left + 1, len(line)), top + 1 - np.array(line)
            ax.plot(x, y, color=colour, linewidth=0.5)


def _draw_panel(ax: Axes, panel: Panel, networks: Sequence[Network]) -> None:
    ax.set_title(panel.title, pad=13 if panel.rules else None)
    for x, text in panel.rules:
        ax.axvline(x, color="#9aa3ad", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(text, (x, 1), (0, 2), ha="center", va="bottom", fontsize=6.5, color="#5c6470", **place)
    for series in panel.series:
        _draw_series(ax, series, panel.x, networks)
    if panel.surface:
        _draw_surface(ax, panel.surface)
    _set_axis(ax, "x", panel.x)
    _set_axis(ax, "y", panel.y)


def _draw_series(ax: Axes, series: Series, axis: Axis, networks: Sequence[Network]) -> None:
    thread = series.mark == "thread"
    style = networks[series.places(networks)[-1]].style
    x: Any = series.drawn_x(axis)
    colour, marker = style.light, MARKERS[style.symbol]
    if thread:
        ax.plot(x, series.y, color=colour, linewidth=0.8, alpha=0.5, zorder=2)
    elif series.mark == "points":
        bars = np.abs(np.array([series.low, series.high]) - series.y) if series.low else None
        ax.errorbar(x, series.y, yerr=bars, fmt=marker, color=colour, elinewidth=1, capsize=2, zorder=4)
    else:
        line: dict[str, Any] = {"color": colour, "linestyle": DASHES[style.dash], "zorder": 3}
        if series.mark == "steps":
            line["drawstyle"] = "steps-post"
        if series.mark == "both":
            line["marker"] = marker
        ax.plot(x, series.y, **line)
        if series.low:
            ax.fill_between(x, series.low, series.high, color=colour, alpha=0.14, linewidth=0, zorder=2)


def _draw_surface(ax: Any, surface: Surface) -> None:
    if surface.mark == "surface":
        ax.plot_surface(*np.meshgrid(surface.x, surface.y), np.array(surface.z), cmap="viridis")
        return
    colours = ax.contourf(surface.x, surface.y, np.array(surface.z), levels=12, cmap="viridis")
    ax.figure.colorbar(colours, ax=ax, label=surface.axis.title)


def _set_axis(ax: Axes, which: str, axis: Axis) -> None:
    ax.set(**{f"{which}label": axis.title})
    handle = getattr(ax, f"{which}axis")
    if axis.kind == "log":
        ax.set(**{f"{which}scale": "log"})
    if axis.percent:
        handle.set_major_formatter(FuncFormatter(lambda value, place: f"{round(100 * value, 6):g}%"))
    if axis.categories:
        handle.set_ticks(*zip(*category_ticks(axis), strict=True))
        ax.set(**{f"{which}lim": (-0.5, len(axis.categories) - 0.5)})
    if axis.ticks:
        low, high = axis.range or (-np.inf, np.inf)
        ticks = [(value, text) for value, text in axis.ticks if low <= value <= high]
        handle.set_ticks([value for value, _ in ticks], [text for _, text in ticks])
        handle.set_minor_locator(NullLocator())
    if axis.range:
        ax.set(**{f"{which}lim": axis.range})
    if axis.kind == "category" and which == "x":
        ax.tick_params(axis="x", rotation=45)


def _handle(network: Network) -> Line2D:
    style = network.style
    dash, marker = DASHES[style.dash], MARKERS[style.symbol]
    return Line2D([], [], color=style.light, linestyle=dash, marker=marker, label=network.label)
