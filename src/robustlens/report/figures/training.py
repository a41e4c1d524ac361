"""Figures of training: its curves, and the best checkpoint beside the last."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from robustlens.report.data import Network, ReportData, RunReport, as_interval, combined, dig
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, View, aligned, floats, thinned, view
from robustlens.report.figures.accuracy import interval_series, views
from robustlens.stats.intervals import Interval

Reader = Callable[[dict[str, Any]], float | None]
"""Takes one number out of an epoch of `metrics.jsonl`."""
Ends = tuple[Interval | None, Interval | None]
"""A quantity at the best and at the last checkpoint."""


_EVERY_EPOCH = (
    ("Robust accuracy", "robust", Axis("accuracy", percent=True), "training - validation"),
    ("Clean accuracy", "clean", Axis("accuracy", percent=True), "training - validation"),
    ("Clean loss", "loss", Axis("cross entropy (nats)"), "validation - training"),
    ("Ramp risk", "ramp_risk", Axis("mean ramp loss"), "validation - training"),
)
"""What is logged of fixed images after every epoch: title, key, axis, and which difference is the gap."""


def training(study: ReportData) -> Figure:
    """Clean and robust accuracy over the epochs, on fixed training and validation images."""
    every = [_training_view(study, *quantity) for quantity in _EVERY_EPOCH]
    loss = _epochs_panel(study.groups, "Training objective", Axis("mean objective"), lambda e: dig(e, "loss"))
    rate = _epochs_panel(study.groups, "Learning rate", Axis("learning rate"), lambda e: dig(e, "lr"))
    return Figure(
        "training",
        "Training",
        "Training curves",
        "Robust overfitting shows as a training curve that still climbs while validation falls; the marker "
        "shows the epoch that was kept, chosen on validation images.",
        views(*every, view("Objective", [loss, rate])),
        note="Measured at the weights w, in eval mode, without augmentation; robust accuracy is at each "
        "network's own training eps, so standard training has none. Bands span the seeds.",
        selector="Curve",
        paper=2,
        missing="No epochs were logged.",
    )


def checkpoints(study: ReportData) -> Figure:
    """The best and the last checkpoint side by side: as evaluated, and as training logged them."""
    evaluated = [
        _ends_panel(title, unit, study.groups, partial(_evaluated_ends, path))
        for title, unit, path in (
            ("Clean accuracy, test", "accuracy", ("splits", "test", "clean")),
            ("Robust accuracy, test", "accuracy", ("splits", "test", "robust")),
            ("Robust gap", "train - test robust accuracy", ("gaps", "robust")),
        )
    ]
    robust = [group for group in study.groups if group.eps > 0]
    logged = [
        _ends_panel(title, unit, groups, partial(_logged_ends, read))
        for title, unit, groups, read in (
            ("Clean accuracy", "accuracy", study.groups, partial(_of_validation, "clean")),
            ("Robust accuracy", "accuracy", robust, partial(_of_validation, "robust")),
            ("Robust gap", "training - validation", robust, partial(_gap, "robust", 1)),
        )
    ]
    return Figure(
        "checkpoints",
        "Training",
        "Best and last checkpoint",
        "Robust overfitting is a line that falls from best to last on test images while the gap rises; AWP "
        "should hold both level.",
        views(view("Evaluated", evaluated), view("Logged, on validation images", logged)),
        note="The best checkpoint was chosen on validation images, which speak of it too kindly. Bands are "
        "95 % intervals. The last one is evaluated where a plan's checkpoint is both, or every.",
        selector="Accuracy",
        missing="No epochs were logged.",
    )


# -- pieces --------------------------------------------------------------------------------------------


def _ends_panel(title: str, unit: str, groups: Iterable[Network], ends: Callable[[Network], Ends]) -> Panel:
    """A line from best to last for each network that has both."""
    found = {group.label: ends(group) for group in groups}
    series = (
        interval_series(label, ("best", "last"), [best, last], "both")
        for label, (best, last) in found.items()
        if best is not None and last is not None
    )
    return Panel(title, Axis("checkpoint", kind="category"), Axis(unit, percent=True), tuple(series))


def _evaluated_ends(path: tuple[str, ...], group: Network) -> Ends:
    """Of the runs that were evaluated at both checkpoints."""
    both = [(record, record.last) for record in group.records if record.last and record.evaluation]
    best = combined(as_interval(dig(record.evaluation, *path)) for record, _ in both)
    return best, combined(last.interval(*path) for _, last in both)


def _logged_ends(read: Reader, group: Network) -> Ends:
    """At the epoch whose weights were kept as the best, and after the last one."""
    logged = [(_kept_epoch(record), dict(_logged(record, read))) for record in group.records]
    both = [(values[best], values[max(values)]) for best, values in logged if best in values]
    best, last = (combined(Interval(pair[end]) for pair in both) for end in (0, 1))
    return best, last


def _of_validation(key: str, epoch: dict[str, Any]) -> float | None:
    found: float | None = dig(epoch, "validation", key)
    return found


def _gap(key: str, sign: int, epoch: dict[str, Any]) -> float | None:
    """Training minus validation, times `sign`."""
    train, validation = dig(epoch, "train", key), dig(epoch, "validation", key)
    return None if train is None or validation is None else sign * (train - validation)


def _training_view(study: ReportData, title: str, key: str, axis: Axis, difference: str) -> View | None:
    gap = partial(_gap, key, 1 if difference.startswith("training") else -1)
    # Under an attack of radius 0, standard training would show its clean accuracy as robust.
    groups = [group for group in study.groups if key != "robust" or group.eps > 0]
    panels = [
        _epochs_panel(groups, "Validation images", axis, partial(_of_validation, key), dots=True),
        _epochs_panel(groups, "Training images", axis, lambda e: dig(e, "train", key)),
        _epochs_panel(groups, "Gap", replace(axis, title=difference), gap),
    ]
    return view(title, aligned(panels))


def _epochs_panel(
    groups: Iterable[Network], title: str, axis: Axis, read: Reader, *, dots: bool = False
) -> Panel:
    found = list(groups)
    series = [line for group in found if (line := _epochs(group, read))]
    best = [dot for group in found for dot in _best(group, read)] if dots else []
    return Panel(title, Axis("epoch"), axis, (*series, *best))


def _logged(record: RunReport, read: Reader) -> Iterator[tuple[int, float]]:
    for epoch in record.metrics:
        number, value = dig(epoch, "epoch"), read(epoch)
        if isinstance(number, int) and isinstance(value, int | float):
            yield number, float(value)


def _epochs(group: Network, read: Reader) -> Series | None:
    """The mean over seeds, with their range as a band."""
    by_epoch: dict[int, list[float]] = {}
    for record in group.records:
        for number, value in _logged(record, read):
            by_epoch.setdefault(number, []).append(value)
    if not by_epoch:
        return None
    epochs = np.array(sorted(by_epoch))
    epochs = epochs[thinned(len(epochs))]
    values = [by_epoch[int(epoch)] for epoch in epochs]
    band = max(map(len, values)) > 1
    return Series(
        group.label,
        floats(epochs),
        floats([float(np.mean(value)) for value in values]),
        floats([min(value) for value in values]) if band else (),
        floats([max(value) for value in values]) if band else (),
    )


def _best(group: Network, read: Reader) -> Iterator[Series]:
    """A dot at the epoch whose weights were kept: the last that was the best so far."""
    for record in group.records:
        epoch = _kept_epoch(record)
        value = dict(_logged(record, read)).get(epoch)
        if value is not None:
            yield Series(group.label, (float(epoch),), (value,), mark="points")


def _kept_epoch(record: RunReport) -> int:
    """The epoch whose weights are the best; 0 before the first."""
    kept = [epoch["epoch"] for epoch in record.metrics if dig(epoch, "best") and "epoch" in epoch]
    return int(kept[-1]) if kept else 0
