"""Panels and series that several kinds of figure share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from robustlens.config import eps_text
from robustlens.report.data import LabelledArrays, Network, ReportData
from robustlens.report.drawing.spec import POINTS, Axis, Panel, Series, View, ecdf, floats, histogram
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
            shift=(shifts[network.method, network.eps],),
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


def _threads(
    known: list[tuple[Network, Interval]], shifts: dict[tuple[str, float], float]
) -> Iterable[Series]:
    """A faint line through the strengths of each method that has several."""
    standard = [value.value for network, value in known if network.eps == 0]
    for method in dict.fromkeys(network.method for network, _ in known):
        own = sorted(
            ((network.eps, value.value) for network, value in known if network.method == method),
            key=lambda point: point[0],
        )
        if len({eps for eps, _ in own}) > 1:
            # eps 0 is standard training for every method, so its line starts there.
            start = [(0.0, standard[0])] if len(standard) == 1 and own[0][0] > 0 else []
            x, y = zip(*start, *own, strict=True)
            aside = floats([shifts.get((method, eps), 0.0) for eps in x])
            yield Series(method, floats(x), floats(y), mark="thread", shift=aside)


def _shifts(networks: list[Network]) -> dict[tuple[str, float], float]:
    """Distance by which the markers of each (method, eps) step aside where methods share a strength."""
    strengths = sorted({network.eps for network in networks})
    shifts = {}
    for eps in strengths:
        methods = list(dict.fromkeys(network.method for network in networks if network.eps == eps))
        step = 0.0
        if len(strengths) > 1:
            widest = 0.6 * float(np.diff(strengths).min()) / len(methods)
            step = min(0.02 * (strengths[-1] - strengths[0]), widest)
        for place, method in enumerate(methods):
            shifts[method, eps] = step * (place - (len(methods) - 1) / 2)
    return shifts
