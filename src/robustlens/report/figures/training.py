"""Figures of training: its curves, and the best checkpoint beside the last."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter, methodcaller

import numpy as np

from robustlens.config import eps_text
from robustlens.report.data import Combine, Network, Quantity, ReportData, RunReport
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, View, aligned, floats, thinned, view
from robustlens.report.figures.panels import attacked_at, interval_series, views
from robustlens.results import EpochRecord, MonitorRecord
from robustlens.stats.intervals import Interval, over_seeds, share_over_seeds

EpochNumber = Callable[[EpochRecord], float]
"""Takes one number out of an epoch; NaN where it was not logged."""
MonitorNumber = Callable[[MonitorRecord], float]
BestAndLast = tuple[Interval | None, Interval | None]
"""A quantity at the best and at the last checkpoint."""
CLEAN, ROBUST = attrgetter("clean"), attrgetter("robust")


@dataclass(frozen=True)
class LoggedQuantity:
    """A number that is logged of fixed images after every epoch, and which difference is its gap.

    `adversarial`: measured under attack, which at radius 0 would show clean accuracy as robust.
    """

    title: str
    number: MonitorNumber
    axis: Axis
    difference: str
    adversarial: bool = False


_ACCURACY = Axis("accuracy", percent=True)
_LOGGED = (
    LoggedQuantity("Robust accuracy", attrgetter("robust"), _ACCURACY, "training - validation", True),
    LoggedQuantity("Clean accuracy", attrgetter("clean"), _ACCURACY, "training - validation"),
    LoggedQuantity("Clean loss", attrgetter("loss"), Axis("cross entropy (nats)"), "validation - training"),
    LoggedQuantity("Ramp risk", attrgetter("ramp_risk"), Axis("mean ramp loss"), "validation - training"),
)


def training(data: ReportData) -> Figure:
    """Clean and robust accuracy over the epochs, on fixed training and validation images."""
    every = [_logged_view(data, quantity) for quantity in _LOGGED]
    loss = _epochs_panel(data.networks, "Training objective", Axis("mean objective"), attrgetter("loss"))
    rate = _epochs_panel(data.networks, "Learning rate", Axis("learning rate"), attrgetter("lr"))
    return Figure(
        "training",
        "Training",
        "Training curves",
        "Robust overfitting shows as a training curve that still climbs while validation falls; the marker "
        "shows the epoch that was kept: the best on validation images, or the last where there are none.",
        views(*every, view("Objective", [loss, rate])),
        note="Measured at the weights w, in eval mode, without augmentation; robust accuracy is"
        f"{_training_eps(data)}, so standard training has none. Bands span the seeds.",
        selector="Curve",
        paper=2,
        missing="No epochs were logged.",
    )


def checkpoints(data: ReportData) -> Figure:
    """The best and the last checkpoint side by side: as evaluated, and as training logged them."""
    at, own = attacked_at(data), _at_training_eps(data)
    evaluated = [
        _ends_panel(title, unit, data.networks, partial(_evaluated_ends, combine, quantity))
        for title, unit, combine, quantity in (
            ("Clean accuracy, test", "accuracy", share_over_seeds, methodcaller("clean")),
            ("Robust accuracy, test", f"accuracy{at}", share_over_seeds, methodcaller("robust")),
            ("Robust gap", f"train - test{at}", over_seeds, methodcaller("gap", "robust")),
        )
    ]
    robust = [network for network in data.networks if network.eps > 0]
    logged = [
        _ends_panel(title, unit, networks, partial(_logged_ends, combine, number))
        for title, unit, networks, combine, number in (
            ("Clean accuracy", "accuracy", data.networks, share_over_seeds, partial(_validation, CLEAN)),
            ("Robust accuracy", f"accuracy{own}", robust, share_over_seeds, partial(_validation, ROBUST)),
            ("Robust gap", f"training - validation{own}", robust, over_seeds, partial(_gap, ROBUST, 1)),
        )
    ]
    return Figure(
        "checkpoints",
        "Training",
        "Best and last checkpoint",
        "Robust overfitting is a line that falls from best to last on test images while the gap rises; AWP "
        "should hold both level.",
        views(view("Evaluated", evaluated), view("Logged, on validation images", logged)),
        note=f"Evaluated robust accuracy is{at}, logged{_training_eps(data)}. The best "
        "checkpoint was chosen on validation images, which speak of it too kindly. Bands are 95 % intervals. "
        "The last one is evaluated where a plan's checkpoint is both, or every.",
        selector="Accuracy",
        missing="No epochs were logged.",
    )


def _ends_panel(
    title: str, unit: str, networks: Iterable[Network], ends: Callable[[Network], BestAndLast]
) -> Panel:
    """A line from best to last for each network that has both."""
    by_label = {network.label: ends(network) for network in networks}
    series = (
        interval_series(label, ("best", "last"), [best, last], "both")
        for label, (best, last) in by_label.items()
        if best is not None and last is not None
    )
    return Panel(title, Axis("checkpoint", kind="category"), Axis(unit, percent=True), tuple(series))


def _evaluated_ends(combine: Combine, quantity: Quantity, network: Network) -> BestAndLast:
    """Best and last of the runs that were evaluated at both checkpoints."""

    def best(run: RunReport) -> Interval | None:
        return quantity(run) if run.last else None

    def last(run: RunReport) -> Interval | None:
        return quantity(run.last) if run.last and run.evaluation else None

    return network.combined(combine, best), network.combined(combine, last)


def _logged_ends(combine: Combine, number: EpochNumber, network: Network) -> BestAndLast:
    """At the epoch whose weights were kept as the best, and after the last one."""

    def best(run: RunReport) -> Interval | None:
        value = dict(_logged(run, number)).get(_best_epoch(run))
        return None if value is None else Interval(value)

    def last(run: RunReport) -> Interval | None:
        return None if best(run) is None else Interval([value for _, value in _logged(run, number)][-1])

    return network.combined(combine, best), network.combined(combine, last)


def _at_training_eps(data: ReportData) -> str:
    """Radius of the attack that training logs, for an axis: one for all, or each network's own."""
    strengths = {network.eps for network in data.networks if network.eps > 0}
    return f" at eps {eps_text(*strengths)}" if len(strengths) == 1 else " at own eps"


def _training_eps(data: ReportData) -> str:
    """The same for a note, with the range of what each network has for its own."""
    strengths = sorted({network.eps for network in data.networks if network.eps > 0})
    ends = f" ({eps_text(strengths[0])} to {eps_text(strengths[-1])})" if len(strengths) > 1 else ""
    return f"{_at_training_eps(data)}, the eps of training{ends}"


def _train(number: MonitorNumber, epoch: EpochRecord) -> float:
    return number(epoch.train) if epoch.train else math.nan


def _validation(number: MonitorNumber, epoch: EpochRecord) -> float:
    return number(epoch.validation) if epoch.validation else math.nan


def _gap(number: MonitorNumber, sign: int, epoch: EpochRecord) -> float:
    """Training minus validation, times `sign`."""
    return sign * (_train(number, epoch) - _validation(number, epoch))


def _logged_view(data: ReportData, quantity: LoggedQuantity) -> View | None:
    number, axis, difference = quantity.number, quantity.axis, quantity.difference
    if quantity.adversarial:
        at = _at_training_eps(data)
        axis, difference = replace(axis, title=f"{axis.title}{at}"), f"{difference}{at}"
    gap = partial(_gap, number, 1 if quantity.difference.startswith("training") else -1)
    networks = [network for network in data.networks if not quantity.adversarial or network.eps > 0]
    validation = partial(_validation, number)
    panels = [
        _epochs_panel(networks, "Validation images", axis, validation, _best_dots(networks, validation)),
        _epochs_panel(networks, "Training images", axis, partial(_train, number)),
        _epochs_panel(networks, "Gap", replace(axis, title=difference), gap),
    ]
    return view(quantity.title, aligned(panels))


def _epochs_panel(
    networks: Iterable[Network], title: str, axis: Axis, number: EpochNumber, dots: Iterable[Series] = ()
) -> Panel:
    lines = [line for network in networks if (line := _epochs(network, number))]
    return Panel(title, Axis("epoch"), axis, (*lines, *dots))


def _logged(run: RunReport, number: EpochNumber) -> Iterator[tuple[int, float]]:
    """Epoch and number, where it was logged."""
    return ((epoch.epoch, value) for epoch in run.metrics if not math.isnan(value := number(epoch)))


def _epochs(network: Network, number: EpochNumber) -> Series | None:
    """The mean over seeds, with their range as a band."""
    by_epoch: dict[int, list[float]] = {}
    for run in network.runs:
        for epoch, value in _logged(run, number):
            by_epoch.setdefault(epoch, []).append(value)
    if not by_epoch:
        return None
    epochs = np.array(sorted(by_epoch))
    epochs = epochs[thinned(len(epochs))]
    values = [by_epoch[int(epoch)] for epoch in epochs]
    band = max(map(len, values)) > 1
    return Series(
        network.label,
        floats(epochs),
        floats([float(np.mean(value)) for value in values]),
        floats([min(value) for value in values]) if band else (),
        floats([max(value) for value in values]) if band else (),
    )


def _best_dots(networks: Iterable[Network], number: EpochNumber) -> Iterator[Series]:
    """A dot at the epoch of each run whose weights were kept as the best."""
    for network in networks:
        for run in network.runs:
            epoch = _best_epoch(run)
            value = dict(_logged(run, number)).get(epoch)
            if value is not None:
                yield Series(network.label, (float(epoch),), (value,), mark="points")


def _best_epoch(run: RunReport) -> int:
    """The last epoch that was the best so far; 0 before the first."""
    return max((epoch.epoch for epoch in run.metrics if epoch.best), default=0)
