"""Figures before any library draws them: panels of series, or of a surface, on two axes.

The page's plots, the PDF and SVG files and the CSV are renderings of one `Figure`: they cannot disagree.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from robustlens.config.names import slug
from robustlens.report.data import Network
from robustlens.report.drawing.gallery import Gallery

Values = tuple[float | str, ...]
Point = dict[str, float | str | None]
"""A row of tidy data."""
POINTS = 240
"""The most points that one series keeps; more cannot be seen and would weigh the page down."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    `percent`: values are shares and shown in %. `ticks`: (value, text) where they are given. `categories`: of
    a category axis with marks side by side, in their order; the first is drawn at 0, the next at 1.
    """

    title: str
    kind: Literal["linear", "log", "category"] = "linear"
    percent: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    range: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One network's values (or one method's, for a line through its strengths).

    Args:
        label: the network (its colour, dash and marker) or the method.
        x, y: the points.
        low, high: the interval around each y; a band around a line, a whisker on a marker. Empty for none.
        mark: "line"; "steps", a histogram's outline, where each y holds until the next x; "points"; "both";
            "thread", a faint line that only guides the eye from marker to marker.
        shift: added to x where it is drawn, so that networks of one strength do not hide one another.
            Empty for none.
    """

    label: str
    x: Values
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mark: Literal["line", "steps", "points", "both", "thread"] = "line"
    shift: tuple[float, ...] = ()

    def places(self, networks: Sequence[Network]) -> list[int]:
        """Positions of the networks that it belongs to: one, or all of its method for a thread."""
        labels = [network.method if self.mark == "thread" else network.label for network in networks]
        return [place for place, label in enumerate(labels) if label == self.label]

    def drawn_x(self, axis: Axis) -> Values:
        """The x at which the points are drawn on this axis."""
        places = {name: place for place, name in enumerate(axis.categories)}
        x = [places[str(value)] for value in self.x] if places else self.x
        if not self.shift:
            return tuple(x)
        return tuple(float(value) + by for value, by in zip(x, self.shift, strict=True))

    def points(self) -> Iterator[Point]:
        """The points with their intervals, as tidy data."""
        for place, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            low = self.low[place] if self.low else None
            high = self.high[place] if self.high else None
            yield {"x": x, "y": y, "low": low, "high": high}


@dataclass(frozen=True)
class Surface:
    """One network's values over a plane.

    Args:
        label: the network.
        x, y: coordinates along the panel's axes.
        z: the values, a row for each y.
        axis: of the values.
        mark: "surface", seen in space, or "contour", seen from above.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    axis: Axis
    mark: Literal["surface", "contour"]

    def points(self) -> Iterator[Point]:
        """The values with their places, as tidy data."""
        for y, row in zip(self.y, self.z, strict=True):
            for x, z in zip(self.x, row, strict=True):
                yield {"x": x, "y": y, "z": z}


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `rules`: (x, text) of thin upright lines that mark a value of interest.

    A panel shows series, or one `surface`, or a `gallery`, which has no axes.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    rules: tuple[tuple[float, str], ...] = ()
    surface: Surface | None = None
    gallery: Gallery | None = None


@dataclass(frozen=True)
class View:
    """One choice of a figure's selector: a layer, a split, a kind of margin."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Table:
    """Numbers below a figure. `rows`: (label of the network, texts of its cells)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Figure:
    """A figure: its names, what to look for, and its views (none where nothing was measured).

    `paper` is how many of the views, from the first, are also drawn as PDF and SVG. `tables` are for numbers
    that are read rather than compared by eye.
    """

    name: str
    section: str
    title: str
    look_for: str
    views: tuple[View, ...] = ()
    note: str = ""
    selector: str = "Show"
    paper: int = 1
    missing: str = field(default="Not measured in these runs.", kw_only=True)
    tables: tuple[Table, ...] = field(default=(), kw_only=True)

    @property
    def gallery(self) -> Gallery | None:
        """Its gallery, where it is one; it has no other views."""
        return self.views[0].panels[0].gallery if self.views else None

    def file_of(self, view: View) -> str | None:
        """Name of the drawing of `view`, without its ending; None where none is made."""
        place = self.views.index(view)
        if place >= self.paper:
            return None
        return self.name if place == 0 else f"{self.name}-{slug(view.name)}"

    def labels(self) -> list[str]:
        """Labels in the order in which they first appear."""
        every = (series for view in self.views for panel in view.panels for series in panel.series)
        return list(dict.fromkeys(series.label for series in every))

    def rows(self) -> list[Point]:
        """The tidy data, one row a point, in full precision: the CSV beside the figure."""
        return [
            {"view": view.name, "panel": panel.title, "label": part.label, "mark": part.mark, **point}
            for view in self.views
            for panel in view.panels
            for part in (*panel.series, *(one for one in (panel.surface, panel.gallery) if one))
            for point in part.points()
        ]


def aligned(panels: Sequence[Panel]) -> list[Panel]:
    """The panels with one range for every axis that they share, so that the eye may compare across them."""
    return [
        replace(panel, x=_same_range("x", panel.x, panels), y=_same_range("y", panel.y, panels))
        for panel in panels
    ]


def category_ticks(axis: Axis, most: int = 24) -> tuple[tuple[float, str], ...]:
    """Places and names of an axis's categories; every n-th where there are more than can be read."""
    every = -(-len(axis.categories) // most) or 1
    return tuple((float(place), name) for place, name in enumerate(axis.categories) if place % every == 0)


def fitted(axis: Axis, values: Iterable[float]) -> Axis:
    """The axis with the range of `values`, and a little room."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite or axis.range or axis.kind == "category":
        return axis
    room = 0.04 * (max(finite) - min(finite)) or 0.5
    return replace(axis, range=(min(finite) - room, max(finite) + room))


def _same_range(which: str, axis: Axis, panels: Sequence[Panel]) -> Axis:
    like = [panel for panel in panels if getattr(panel, which) == axis]
    if len(like) < 2:
        return axis
    parts = ("x",) if which == "x" else ("y", "low", "high")
    every = [series for panel in like for series in panel.series]
    return fitted(axis, (value for series in every for part in parts for value in getattr(series, part)))


def view(name: str, panels: Iterable[Panel]) -> View | None:
    """A view of the panels that have something to show; None where none has."""
    kept = tuple(panel for panel in panels if panel.series or panel.surface)
    return View(name, kept) if kept else None


def ecdf(values: np.ndarray, points: int = POINTS) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values and the share of `values` at or below them: the empirical distribution, thinned to `points`.

    Infinite values have no place on an axis, but count in the shares; only NaN, which is no value, does not.

    >>> ecdf(np.array([3.0, 1.0, np.inf, np.inf]))
    ((1.0, 3.0), (0.25, 0.5))
    """
    ordered = np.sort(values[~np.isnan(values)].astype(np.float64))
    finite = np.flatnonzero(np.isfinite(ordered))
    kept = finite[thinned(len(finite), points)]
    return floats(ordered[kept]), floats((kept + 1) / max(len(ordered), 1))


def histogram(values: np.ndarray, edges: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower edges of the bins and the share of all `values` in each; a last 0 closes the outline.

    >>> histogram(np.array([0.1, 0.2, 0.9, 7.0]), np.array([0.0, 0.5, 1.0]))
    ((0.0, 0.5, 1.0), (0.5, 0.25, 0.0))
    """
    counts, _ = np.histogram(values, edges)
    return floats(edges), (*floats(counts / max(len(values), 1)), 0.0)


def points_for(series: int, budget: int = 24_000) -> int:
    """Points for each of `series` series of one figure, so that a study of any size stays a page."""
    return int(np.clip(budget // max(series, 1), 30, POINTS))


def floats(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Plain floats."""
    return tuple(float(value) for value in values)


def thinned(count: int, most: int = POINTS) -> np.ndarray:
    """At most `most` positions of `count`, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
