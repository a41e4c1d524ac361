"""Panels and series that several kinds of figure share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from robustlens.config import eps_text
from robustlens.report.data import LabelledArrays, Network, ReportData
from robustlens.report.drawing.spec import POINTS, Axis, Panel, Series, View, ecdf, floats, histogram
from robustlens.results.values import ThreatRecord
from robustlens.stats.intervals import Interval

SPLITS = (("Test images", "test"), ("Training images", "train"))
BELOW = Axis("share of images below", percent=True)
SHARE = Axis("share of images", percent=True)


def against_strength(
    data: ReportData, title: str, unit: str, percent: bool, quantity: Callable[[Network], Interval | None]
) -> Panel:
    """One quantity against training strength: a marker with whiskers per network, a thread per method.

    Empty for a network alone, which has nothing to be compared with.
    """
    known = [(network, value) for network in data.networks if (value := quantity(network)) is not None]
    if len(known) < 2:
        return Panel(title, Axis(""), Axis(""), ())
    shifts = _shifts([network for network, _ in known])
    markers = [
        replace(
            interval_series(network.label, (network.eps,), [value], "points"),
            shift=(shifts[network.label],),
        )
        for network, value in known
    ]
    ticks = tuple((eps, eps_text(eps)) for eps in sorted({network.eps for network, _ in known}))
    axis = Axis("training strength eps", ticks=ticks)
    return Panel(title, axis, Axis(unit, percent=percent), (*_threads(known, shifts), *markers))


def interval_series(label: str, x: Iterable[float | str], intervals: Sequence[Interval], mark: str) -> Series:
    """A series from intervals; it has a band or whiskers only if every point has an interval."""
    bounded = [(i.low, i.high) for i in intervals if i.low is not None and i.high is not None]
    low, high = zip(*bounded, strict=True) if bounded and len(bounded) == len(intervals) else ((), ())
    y = floats([interval.value for interval in intervals])
    return Series(label, tuple(x), y, floats(low), floats(high), mark)  # type: ignore[arg-type]  # a mark's name


def ecdf_series(arrays: LabelledArrays, points: int = POINTS) -> tuple[Series, ...]:
    """The empirical distribution of each network, its seeds together."""
    return tuple(Series(label, *ecdf(np.concatenate(seeds), points)) for label, seeds in arrays)


def histogram_series(arrays: LabelledArrays, edges: np.ndarray) -> tuple[Series, ...]:
    """The outline of a histogram of each network, its seeds together."""
    return tuple(
        Series(label, *histogram(np.concatenate(seeds), edges), mark="steps") for label, seeds in arrays
    )


def inner_edges(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Edges of the bins that all but the outermost values fall into."""
    every = list(arrays)
    finite = np.concatenate(every) if every else np.zeros(1)
    finite = finite[np.isfinite(finite)]
    low, high = np.quantile(finite, [0.001, 0.999]) if finite.size else (0.0, 0.0)
    return np.linspace(low, high if high > low else low + 1, 49)


def views(*candidates: View | None) -> tuple[View, ...]:
    """The views that exist."""
    return tuple(candidate for candidate in candidates if candidate is not None)


def category_panel(
    title: str, name: str, categories: Iterable[str], axis: Axis, series: Sequence[Series]
) -> Panel:
    """Values by category (layers, classes): dots, those of one category side by side."""
    shown = {x for one in series for x in one.x}
    step = min(0.12, 0.7 / max(1, len(series)))
    dots = tuple(
        replace(one, mark="points", shift=(step * (place - (len(series) - 1) / 2),) * len(one.x))
        for place, one in enumerate(series)
    )
    return Panel(
        title, Axis(name, kind="category", categories=tuple(c for c in categories if c in shown)), axis, dots
    )


def attacked_at(data: ReportData) -> str:
    """Norm and radius of the evaluations' attacks, " at Linf eps 0.1"; of runs that differ, each radius."""
    threats = dict.fromkeys(run.evaluation.threat for run in data.runs if run.evaluation)
    norms = dict.fromkeys(threat.norm for threat in threats)
    each = (f"{norm} eps {' or '.join(_radii(threats, norm))}" for norm in norms)
    return f" at {', '.join(each)}" if threats else " under every attack"


def _radii(threats: Iterable[ThreatRecord], norm: str) -> Iterable[str]:
    return dict.fromkeys(eps_text(threat.eps) for threat in threats if threat.norm == norm)


def _threads(known: list[tuple[Network, Interval]], shifts: dict[str, float]) -> Iterable[Series]:
    """A faint line through the strengths of each method that has several."""
    standard = [(network, value) for network, value in known if network.eps == 0]
    for method in dict.fromkeys(network.method for network, _ in known):
        own = sorted(
            ((network, value) for network, value in known if network.method == method),
            key=lambda point: point[0].eps,
        )
        if len({network.eps for network, _ in own}) > 1:
            # eps 0 is standard training for every method, so its line starts there.
            start = standard if len(standard) == 1 and own[0][0].eps > 0 else []
            points = [(network.eps, value.value, shifts[network.label]) for network, value in (*start, *own)]
            x, y, aside = zip(*points, strict=True)
            yield Series(method, floats(x), floats(y), mark="thread", shift=floats(aside))


def _shifts(networks: list[Network]) -> dict[str, float]:
    """Distance by which the marker of each network steps aside, so that one strength's stand side by side."""
    strengths = sorted({network.eps for network in networks})
    span = strengths[-1] - strengths[0] or strengths[0] or 1.0
    closest = float(np.diff(strengths).min()) if len(strengths) > 1 else span
    shifts = {}
    for eps in strengths:
        labels = [network.label for network in networks if network.eps == eps]
        step = min(0.04 * span, 0.8 * closest / len(labels))
        for place, label in enumerate(labels):
            shifts[label] = step * (place - (len(labels) - 1) / 2)
    return shifts
