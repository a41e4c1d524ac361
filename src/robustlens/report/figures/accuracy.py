"""Figures of accuracy and gaps. Each function turns a study into one `Figure`."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from robustlens.config import eps_text
from robustlens.report.data import Network, ReportData, as_interval, combined, dig
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, View, aligned, floats, view
from robustlens.stats.intervals import Interval, wilson

RADII = 60
"""The most radii of an accuracy curve that is drawn from distances."""


def robust_accuracy(study: ReportData) -> Figure:
    """Robust accuracy against the radius of the attack, on test and training images.

    Drawn from every image's minimum-norm distance where the evaluation kept it, else at the radii that it
    attacked.
    """
    eps = study.first("threat", "eps")
    rules = ((float(eps), "eps of the table"),) if isinstance(eps, int | float) else ()
    norm = study.first("threat", "norm") or "norm"
    panels = [
        Panel(
            title,
            Axis(f"attack radius eps ({norm})"),
            Axis("robust accuracy", percent=True),
            tuple(found for group in study.groups if (found := _curve(group, split))),
            rules,
        )
        for title, split in (("Test images", "test"), ("Training images", "train"))
    ]
    distances = (
        "Drawn from minimum-norm distances: an image counts as robust up to the nearest misclassified point "
        "that any attack found, which makes each curve an upper bound on robust accuracy. "
    )
    return Figure(
        "robust-accuracy",
        "Accuracy",
        "Robust accuracy against the radius of the attack",
        "A robust network keeps its height to the right; the curve should fall smoothly and, for a large "
        "radius, towards zero, since one that does not points at an attack that failed.",
        views(view("", aligned(panels))),
        note=(distances if _from_distances(panels) else "") + "Bands are 95 % intervals.",
    )


def strength(study: ReportData) -> Figure:
    """Accuracies and gaps against the strength of training."""
    quantities = (
        ("Clean accuracy, test", "accuracy", True, ("splits", "test", "clean")),
        ("Robust accuracy, test", "accuracy", True, ("splits", "test", "robust")),
        ("Error gap", "test error - train error", True, ("gaps", "error")),
        ("Loss gap", "test loss - train loss (nats)", False, ("gaps", "loss")),
        ("Robust gap", "train - test robust accuracy", True, ("gaps", "robust")),
    )
    panels = [
        against_strength(study, title, unit, percent, partial(_at, path))
        for title, unit, percent, path in quantities
    ]
    return Figure(
        "strength",
        "Accuracy",
        "Accuracy and gaps against training strength",
        "Look for the trade: clean accuracy falls to the right while robust accuracy rises; Wen et al. "
        "expect the error gap to grow while the loss gap shrinks.",
        views(view("", panels)),
        note="Whiskers are 95 % intervals. Lines only join one method's strengths; eps 0 is the "
        "standard network.",
        missing="It takes two evaluated networks.",
    )


# -- shared by the other figures -----------------------------------------------------------------------


def against_strength(
    study: ReportData, title: str, unit: str, percent: bool, quantity: Callable[[Network], Interval | None]
) -> Panel:
    """One quantity against training strength: a marker with whiskers per network, a thread per method.

    Empty for a network alone, which has nothing to be compared with.
    """
    found = [(group, value) for group in study.groups if (value := quantity(group)) is not None]
    if len(found) < 2:
        return Panel(title, Axis(""), Axis(""), ())
    standard = [(group, value) for group, value in found if group.eps == 0]
    shifts = _shifts(found)
    threads = []
    for method in dict.fromkeys(group.method for group, _ in found):
        own = sorted(
            ((group.eps, value.value) for group, value in found if group.method == method),
            key=lambda point: point[0],
        )
        if len({eps for eps, _ in own}) > 1:
            # eps 0 is standard training for every method, so its line starts there.
            start = [(0.0, standard[0][1].value)] if len(standard) == 1 and own[0][0] > 0 else []
            x, y = zip(*start, *own, strict=True)
            aside = floats([shifts.get((method, eps), 0.0) for eps in x])
            threads.append(Series(method, floats(x), floats(y), mark="thread", shift=aside))
    markers = [
        replace(
            interval_series(group.label, (group.eps,), [value], "points"),
            shift=(shifts[group.method, group.eps],),
        )
        for group, value in found
    ]
    ticks = tuple((eps, eps_text(eps)) for eps in sorted({group.eps for group, _ in found}))
    axis = Axis("training strength eps", ticks=ticks)
    return Panel(title, axis, Axis(unit, percent=percent), (*threads, *markers))


def interval_series(label: str, x: Iterable[float | str], intervals: list[Interval], mark: str) -> Series:
    """A series from intervals; it has a band or whiskers only if every point has an interval."""
    bounded = [(i.low, i.high) for i in intervals if i.low is not None and i.high is not None]
    low, high = zip(*bounded, strict=True) if bounded and len(bounded) == len(intervals) else ((), ())
    y = floats([interval.value for interval in intervals])
    return Series(label, tuple(x), y, floats(low), floats(high), mark)  # type: ignore[arg-type]  # a mark's name


def views(*found: View | None) -> tuple[View, ...]:
    """The views that exist."""
    return tuple(view for view in found if view is not None)


# -- pieces --------------------------------------------------------------------------------------------


def _at(path: tuple[str, ...], group: Network) -> Interval | None:
    return group.interval(*path)


def _shifts(found: list[tuple[Network, Interval]]) -> dict[tuple[str, float], float]:
    """How far the markers of each (method, eps) step aside where several methods share a strength."""
    strengths = sorted({group.eps for group, _ in found})
    shifts = {}
    for eps in strengths:
        methods = list(dict.fromkeys(group.method for group, _ in found if group.eps == eps))
        step = 0.0
        if len(strengths) > 1:
            widest = 0.6 * float(np.diff(strengths).min()) / len(methods)
            step = min(0.02 * (strengths[-1] - strengths[0]), widest)
        for place, method in enumerate(methods):
            shifts[method, eps] = step * (place - (len(methods) - 1) / 2)
    return shifts


def _from_distances(panels: Iterable[Panel]) -> bool:
    return any(series.mark == "line" for panel in panels for series in panel.series)


def _curve(group: Network, split: str) -> Series | None:
    curves = [curve for curve in group.values("splits", split, "curve") if curve]
    distances = group.arrays(f"{split}/distance", "evaluation")
    if curves and len(distances) == len(curves):
        return _distance_curve(group, curves, distances)
    return _measured_curve(group, curves)


def _distance_curve(group: Network, curves: list[Any], distances: list[np.ndarray]) -> Series:
    """The share of images without a misclassified point within each radius.

    Only a search for the nearest point, which ran if there is a curve, makes distances that can be read so.
    """
    asked = sorted({float(point["eps"]) for curve in curves for point in curve})
    between = max(1, (RADII - 1) // max(1, len(asked) - 1))
    radii = [*(r for ends in pairwise(asked) for r in np.linspace(*ends, between, endpoint=False)), asked[-1]]
    low, high = next(iter(group.values("threat", "bounds")), (0.0, 1.0))
    rounding = 1e-6 * (high - low)  # of a float32 pixel: the evaluation's own tolerance
    shares = [
        combined(wilson(int((found > reach).sum()), len(found)) for found in distances)
        for reach in (eps + rounding if eps else 0.0 for eps in radii)
    ]
    return interval_series(group.label, floats(radii), [share for share in shares if share], "line")


def _measured_curve(group: Network, curves: list[Any]) -> Series | None:
    """The accuracies at the radii that were attacked one by one."""
    by_eps: dict[float, list[Interval | None]] = {}
    for curve in curves:
        for point in curve:
            if isinstance(eps := dig(point, "eps"), int | float):
                by_eps.setdefault(float(eps), []).append(as_interval(point))
    points = [(eps, value) for eps in sorted(by_eps) if (value := combined(by_eps[eps]))]
    if not points:
        return None
    return interval_series(group.label, [eps for eps, _ in points], [value for _, value in points], "both")
