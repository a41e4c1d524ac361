"""Figures of flatness: against the robust gap, and with it along training."""

from collections.abc import Iterable, Sequence
from operator import methodcaller

import numpy as np

from robustlens.report.data import Combine, Network, Quantity, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, floats, view
from robustlens.report.figures.panels import interval_series, views
from robustlens.report.text.wording import minus
from robustlens.stats.intervals import Interval, over_seeds, share_over_seeds
from robustlens.stats.ranks import LEAST_POINTS, spearman

NUMBERS = (
    ("Landscape rise", "rise of the adversarial loss at |alpha| = 0.5 (nats)", "landscape", "rise", "0.5"),
    ("Matched landscape rise", "the same at matched temperature", "landscape", "matched_rise", "0.5"),
    ("Average case", "average-case flatness (nats)", "flatness", "average", "loss"),
    ("Average case, matched", "the same at matched temperature", "flatness", "average", "matched"),
    ("Worst case", "worst-case flatness (nats)", "flatness", "worst", "loss"),
    ("Worst case, matched", "the same at matched temperature", "flatness", "worst", "matched"),
    (
        "Largest eigenvalue",
        "largest eigenvalue of the relative Hessian",
        "curvature",
        "relative_top_eigenvalue",
    ),
    ("Trace", "trace of the relative Hessian", "curvature", "relative_trace"),
    ("Largest eigenvalue, plain", "largest eigenvalue of the Hessian", "curvature", "top_eigenvalue"),
    ("Trace, plain", "trace of the Hessian", "curvature", "trace"),
)
"""Numbers that say how flat a network is: name, axis, measure and where it lies in the measure's value."""
_GAP = methodcaller("gap", "robust")
LabelledPoint = tuple[str, float, Interval]
"""A network's label, how flat it is, and its robust gap."""


def flatness_and_gap(data: ReportData) -> Figure:
    """Flatness of each adversarially trained network, against its robust gap; a view for each number.

    At the chosen checkpoint, at the last, and along training: a path for each network.
    """
    networks = [network for network in data.networks if network.eps > 0]
    every = []
    for name, unit, *path in NUMBERS:
        flat = methodcaller("number", *path)
        chosen = _points((one, one.over_seeds(flat), one.over_seeds(_GAP)) for one in networks)
        last = _points((one, one.at_last(flat), one.at_last(_GAP)) for one in networks)
        along = [point for network in networks for point in _path(network, flat)]
        panels = [
            scatter(f"Chosen checkpoint{_correlation(chosen)}", unit, chosen),
            scatter(f"Last checkpoint{_correlation(last)}", unit, last),
            scatter("Along training", unit, along),
        ]
        every.append(view(name, panels))
    return Figure(
        "flatness-gap",
        "Landscape",
        "Flatness against the robust gap",
        "Wu et al.: among adversarially trained networks the flatter have the smaller gap, so points should "
        "lie along a rising line, also at matched temperature, where low confidence does not look flat.",
        views(*every),
        note="Standard networks are left out. Whiskers are 95 % intervals of the gap.",
        selector="Flatness",
        missing="It takes an adversarially trained network with a measured landscape.",
    )


def along_training(data: ReportData) -> Figure:
    """The robust gap and what may go with it, epoch by epoch, as evaluated and not only as monitored."""
    networks = [network for network in data.networks if network.eps > 0]
    accuracies = (
        ("Robust gap", "train - test robust accuracy", over_seeds, _GAP),
        ("Robust accuracy, test", "accuracy", share_over_seeds, methodcaller("robust")),
    )
    shown = [
        _over_epochs(networks, title, Axis(unit, percent=True), quantity, combine)
        for title, unit, combine, quantity in accuracies
    ]
    # The scatter says in full what each number is; here the axis has no room for it.
    numbers = [
        _over_epochs(networks, name, Axis("nats"), methodcaller("number", *path))
        for name, _, *path in NUMBERS
    ]
    every = [view(panel.title, [*shown, panel]) for panel in numbers if panel.series]
    return Figure(
        "along-training",
        "Landscape",
        "Gap and flatness along training",
        "Wu et al.: where robust overfitting sets in, the gap widens and the landscape gets sharper; AWP "
        "should hold both down.",
        views(*every),
        note="Each epoch's weights evaluated and explained afresh, on the images and by the attacks of the "
        "table; over seeds as there.",
        selector="Flatness",
        missing="It takes a recipe with `keep_every` and a study with `checkpoint: every`.",
    )


def scatter(title: str, unit: str, points: Iterable[LabelledPoint]) -> Panel:
    """One marker for each point; those of a network (the epochs of its training) are joined in order."""
    by_label: dict[str, list[LabelledPoint]] = {}
    for point in points:
        by_label.setdefault(point[0], []).append(point)
    series = tuple(
        interval_series(
            label,
            floats([flat for _, flat, _ in own]),
            [gap for *_, gap in own],
            "points" if len(own) == 1 else "both",
        )
        for label, own in by_label.items()
    )
    return Panel(title, Axis(unit), Axis("train - test robust accuracy", percent=True), series)


def _correlation(points: Sequence[LabelledPoint]) -> str:
    """Spearman's correlation of flatness and gap, for a title; nothing of too few networks."""
    if len(points) < LEAST_POINTS:
        return ""
    rho = spearman(np.array([flat for _, flat, _ in points]), np.array([gap.value for *_, gap in points]))
    return "" if rho is None else f", rank correlation {minus(f'{rho:.2f}')}"


def _points(rows: Iterable[tuple[Network, Interval | None, Interval | None]]) -> list[LabelledPoint]:
    """Those networks of which both the flatness and the gap are known."""
    return [(network.label, flat.value, gap) for network, flat, gap in rows if flat and gap]


def _path(network: Network, flat: Quantity) -> list[LabelledPoint]:
    """Flatness and gap of a network at every epoch at which both were measured, if there are several."""
    x, y = network.over_epochs(flat, over_seeds), network.over_epochs(_GAP, over_seeds)
    points = [(network.label, x[epoch].value, y[epoch]) for epoch in x if epoch in y]
    return points if len(points) > 1 else []


def _over_epochs(
    networks: Iterable[Network], title: str, axis: Axis, quantity: Quantity, combine: Combine = over_seeds
) -> Panel:
    """A line for each network that was measured at several epochs."""
    by_label = {network.label: network.over_epochs(quantity, combine) for network in networks}
    series = (
        interval_series(label, floats(list(values)), list(values.values()), "both")
        for label, values in by_label.items()
        if len(values) > 1
    )
    return Panel(title, Axis("epoch"), axis, tuple(series))
