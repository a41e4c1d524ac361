"""Figures of the mistakes: from the standard network's answers to each network's own, and class by class."""

from functools import partial

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Table, View, floats, view
from robustlens.report.figures.comparison import reference_names, share, transitions
from robustlens.report.figures.panels import SPLITS, against_strength, category_panel, views
from robustlens.report.text.wording import points
from robustlens.stats.intervals import Interval
from robustlens.stats.misclassification import OUTCOMES, TAU, TAUS, cross_table, outcomes

RIGHT, INDECISIVE, WRONG, ANY = 0, slice(1, 2), slice(1, None), slice(None)
"""Sets of `misclassification.OUTCOMES`."""


def became(data: ReportData) -> Figure:
    """Outcomes of the standard network's right answers, and origin of a network's own errors."""
    taus = (TAU, *(tau for tau in TAUS if tau != TAU))
    return Figure(
        "became",
        "Mistakes",
        "What became of the standard model's right answers",
        "Wen et al. expect the answers that robustness costs to be lost by little: more of them indecisive "
        "errors (p_max - p_y < tau) than decisive ones.",
        views(*(_became(data, tau) for tau in taus), *(_errors_came(data, tau) for tau in taus)),
        note="The same test images under the standard network of the same seed and setting"
        f"{reference_names(data)}.",
        tables=_transition_tables(data),
    )


def by_class(data: ReportData) -> Figure:
    """Error and indecisive error of every class."""
    return Figure(
        "by-class",
        "Mistakes",
        "Mistakes of each class",
        "Robustness seldom costs all classes alike: look for classes whose dots lie far from that of the "
        "standard network, and whether the right plot follows it (close calls) or not.",
        views(*(_class_view(data, title, split) for title, split in SPLITS)),
        note=f"Classes by their number in the data; means over seeds. Indecisive is p_max - p_y < {TAU:g}. A "
        "class has few images, so dots that change places here and there say nothing.",
        selector="Images",
    )


def _cells(before: int | slice, after: int | slice) -> np.ndarray:
    """The transitions from these outcomes to those, as a mask."""
    mask = np.zeros((len(OUTCOMES), len(OUTCOMES)), bool)
    mask[before, after] = True
    return mask


def _became(data: ReportData, tau: float) -> View | None:
    titles = ("Still right", "Now an indecisive error", "Now a decisive error")
    parts = {title: _cells(ANY, place) for place, title in enumerate(titles)}
    unit = "share of its right answers"
    return view(f"Its right answers, tau {tau:g}", _shares(data, tau, unit, _cells(RIGHT, ANY), parts))


def _errors_came(data: ReportData, tau: float) -> View | None:
    titles = ("Standard was right", "Standard erred indecisively", "Standard erred decisively")
    parts = {title: _cells(place, ANY) for place, title in enumerate(titles)}
    unit = "share of the errors"
    return view(f"Where errors come from, tau {tau:g}", _shares(data, tau, unit, _cells(ANY, WRONG), parts))


def _shares(
    data: ReportData, tau: float, unit: str, whole: np.ndarray, parts: dict[str, np.ndarray]
) -> list[Panel]:
    """A panel for each part of the transitions in `whole`, against strength."""
    counts = {network.label: transitions(data, network, tau) for network in data.networks}

    def quantity(part: np.ndarray, network: Network) -> Interval | None:
        seeds = counts[network.label]
        return None if seeds is None else share(seeds, part, whole)

    return [
        against_strength(data, title, unit, True, partial(quantity, part)) for title, part in parts.items()
    ]


def _transition_tables(data: ReportData) -> tuple[Table, ...]:
    """All nine transitions in % of the test images."""
    rows = []
    for network in data.networks:
        counts = transitions(data, network, TAU)
        if counts is not None:
            percent = (counts / counts.sum((1, 2), keepdims=True)).mean(0)
            rows.append((network.label, tuple(points(float(value)) for value in percent.ravel())))
    kinds = [outcome.removesuffix(" error") for outcome in OUTCOMES]
    columns = tuple(f"{before} to {after}" for before in kinds for after in kinds)
    title = f"From the standard network's answer to this one's: % of all test images, tau {TAU:g}"
    return (Table(title, columns, tuple(rows)),) if len(rows) > 1 else ()


def _class_view(data: ReportData, title: str, split: str) -> View | None:
    panels = []
    for heading, kinds in (("Error", WRONG), ("Indecisive error", INDECISIVE)):
        dots = [line for network in data.networks if (line := _by_class(network, split, kinds))]
        axis = Axis("share of the class's images", percent=True)
        classes = sorted({str(x) for one in dots for x in one.x}, key=int)
        panels.append(category_panel(heading, "class", classes, axis, dots))
    return view(title, panels)


def _by_class(network: Network, split: str, kinds: slice) -> Series | None:
    """Share of each class's images whose outcome is one of `kinds`, a mean over seeds."""
    shares: dict[int, list[float]] = {}
    for run in network.runs:
        labels, correct, margin = (
            run.array("margins", f"{split}_{name}") for name in ("label", "correct", "probability")
        )
        if labels is None or correct is None or margin is None:
            continue
        counts = cross_table(labels, outcomes(correct, margin, TAU), (int(labels.max()) + 1, len(OUTCOMES)))
        for label in np.flatnonzero(counts.sum(1)).tolist():
            shares.setdefault(label, []).append(counts[label, kinds].sum() / counts[label].sum())
    if not shares:
        return None
    ranked = sorted(shares)
    return Series(
        network.label,
        tuple(map(str, ranked)),
        floats(np.array([np.mean(shares[label]) for label in ranked])),
        mark="points",
    )
