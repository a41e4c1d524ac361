"""Figures of accuracy and gaps: over the radius of the attack, and over the strength of training."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import methodcaller

import numpy as np

from robustlens.report.data import CheckpointReport, Network, ReportData, RunReport, known
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, aligned, floats, view
from robustlens.report.figures.panels import SPLITS, against_strength, attacked_at, interval_series, views
from robustlens.results import CurvePoint
from robustlens.stats.intervals import Interval, share_over_seeds, wilson

RADII = 60
"""The most radii of an accuracy curve that is drawn from distances."""
Curves = list[Sequence[CurvePoint]]


def robust_accuracy(data: ReportData) -> Figure:
    """Robust accuracy against the radius of the attack, on test and training images.

    Drawn from every image's minimum-norm distance where the evaluation kept it, else at the radii that it
    attacked.
    """
    threat = data.first(lambda evaluation: evaluation.threat)
    rules = ((threat.eps, "eps of the table"),) if threat else ()
    norm = threat.norm if threat else "norm"
    panels = [
        Panel(
            title,
            Axis(f"attack radius eps ({norm})"),
            Axis("robust accuracy", percent=True),
            tuple(line for network in data.networks if (line := _curve(network, split))),
            rules,
        )
        for title, split in SPLITS
    ]
    from_distances = any(line.mark == "line" for panel in panels for line in panel.series)
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
        note=(distances if from_distances else "") + "Bands are 95 % intervals.",
    )


def strength(data: ReportData) -> Figure:
    """Accuracies and gaps against the strength of training."""
    at = attacked_at(data)
    quantities = (
        ("Clean accuracy, test", "accuracy", True, "share_over_seeds", methodcaller("clean")),
        ("Robust accuracy, test", f"accuracy{at}", True, "share_over_seeds", methodcaller("robust")),
        ("Error gap", "test error - train error", True, "over_seeds", methodcaller("gap", "error")),
        ("Loss gap", "test loss - train loss (nats)", False, "over_seeds", methodcaller("gap", "loss")),
        ("Robust gap", f"train - test{at}", True, "over_seeds", methodcaller("gap", "robust")),
    )
    panels = [
        against_strength(data, title, unit, percent, methodcaller(over, quantity))
        for title, unit, percent, over, quantity in quantities
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


def _curve(network: Network, split: str) -> Series | None:
    curves: Curves = [part.curve for part in network.splits(split) if part.curve]
    distances = [run.split_array(split, "distance") for run in network.runs]
    nearest = [distance for distance in distances if distance is not None]
    if curves and len(nearest) == len(curves):
        return _distance_curve(network, curves, split)
    return _measured_curve(network, curves, split)


def _distance_curve(network: Network, curves: Curves, split: str) -> Series:
    """The share of images without a misclassified point within each radius.

    Only a search for the nearest point, which ran if there is a curve, makes distances that can be read so.
    """
    asked = sorted({point.eps for curve in curves for point in curve})
    between = max(1, (RADII - 1) // max(1, len(asked) - 1))
    radii = [*(r for ends in pairwise(asked) for r in np.linspace(*ends, between, endpoint=False)), asked[-1]]
    low, high = next(run.evaluation.threat.bounds for run in network.runs if run.evaluation)
    rounding = 1e-6 * (high - low)  # of a float32 pixel: the evaluation's own tolerance

    distances = {run.name: run.split_array(split, "distance") for run in network.runs}

    def beyond(limit: float, run: RunReport) -> Interval | None:
        distance = distances[run.name]
        return None if distance is None else wilson(int((distance > limit).sum()), len(distance))

    shares = [
        network.combined(share_over_seeds, partial(beyond, limit))
        for limit in (eps + rounding if eps else 0.0 for eps in radii)
    ]
    return interval_series(network.label, floats(radii), [share for share in shares if share], "line")


def _measured_curve(network: Network, curves: Curves, split: str) -> Series | None:
    """The accuracies at the radii that were attacked one by one."""

    def at(eps: float, run: CheckpointReport) -> Interval | None:
        part = run.split(split)
        return (
            next((known(point.interval) for point in part.curve if point.eps == eps), None) if part else None
        )

    radii = sorted({point.eps for curve in curves for point in curve})
    points = [(eps, value) for eps in radii if (value := network.share_over_seeds(partial(at, eps)))]
    if not points:
        return None
    return interval_series(network.label, [eps for eps, _ in points], [value for _, value in points], "both")
