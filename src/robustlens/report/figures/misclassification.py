"""Figures of the mistakes: what became of the standard network's answers, and which classes pay."""

from functools import partial

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Table, View, floats, view
from robustlens.report.figures.accuracy import against_strength, views
from robustlens.report.figures.comparison import share, transitions
from robustlens.report.text.wording import points
from robustlens.stats.intervals import Interval
from robustlens.stats.misclassification import OUTCOMES, TAUS, cross_table, outcomes

TAU = 0.2
"""Of the tables and of the claims: mistakes with p_max - p_y below it are indecisive."""
SPLITS = (("Test images", "test"), ("Training images", "train"))
RIGHT, INDECISIVE, WRONG, ANY = 0, slice(1, 2), slice(1, None), slice(None)
"""Sets of `mistakes.OUTCOMES`."""


def became(study: ReportData) -> Figure:
    """What became of the standard network's right answers, and where a network's own errors come from."""
    taus = (TAU, *(tau for tau in TAUS if tau != TAU))
    return Figure(
        "became",
        "Mistakes",
        "What became of the standard model's right answers",
        "Wen et al. expect the answers that robustness costs to be lost by little: more of them indecisive "
        "errors (p_max - p_y < tau) than decisive ones.",
        views(
            *(_became(study, tau) for tau in taus),
            *(_errors_came(study, tau) for tau in taus),
        ),
        note="The same test images under the standard network of the same seed and setting.",
        tables=_transition_tables(study),
    )


def by_class(study: ReportData) -> Figure:
    """Error and indecisive error of every class."""
    return Figure(
        "by-class",
        "Mistakes",
        "Mistakes of each class",
        "Robustness seldom costs all classes alike: look for classes whose line leaves that of the standard "
        "network, and whether the right plot follows it (close calls) or not.",
        views(*(_class_view(study, title, split) for title, split in SPLITS)),
        note=f"Classes by their number in the data; means over seeds. Indecisive is p_max - p_y < {TAU:g}. A "
        "class has few images, so lines that cross here and there say nothing.",
        selector="Images",
    )


# -- pieces --------------------------------------------------------------------------------------------


def _cells(before: int | slice, after: int | slice) -> np.ndarray:
    """The transitions from these outcomes to those, as a mask."""
    mask = np.zeros((len(OUTCOMES), len(OUTCOMES)), bool)
    mask[before, after] = True
    return mask


def _became(study: ReportData, tau: float) -> View | None:
    titles = ("Still right", "Now an indecisive error", "Now a decisive error")
    parts = {title: _cells(ANY, place) for place, title in enumerate(titles)}
    unit = "share of its right answers"
    return view(f"Its right answers, tau {tau:g}", _shares(study, tau, unit, _cells(RIGHT, ANY), parts))


def _errors_came(study: ReportData, tau: float) -> View | None:
    titles = ("Standard was right", "Standard erred indecisively", "Standard erred decisively")
    parts = {title: _cells(place, ANY) for place, title in enumerate(titles)}
    unit = "share of the errors"
    return view(f"Where errors come from, tau {tau:g}", _shares(study, tau, unit, _cells(ANY, WRONG), parts))


def _shares(
    study: ReportData, tau: float, unit: str, whole: np.ndarray, parts: dict[str, np.ndarray]
) -> list[Panel]:
    """A panel for each part of the transitions in `whole`, against strength."""
    counts = {group.label: transitions(study, group, tau) for group in study.groups}

    def read(part: np.ndarray, group: Network) -> Interval | None:
        found = counts[group.label]
        return None if found is None else share(found, part, whole)

    return [against_strength(study, title, unit, True, partial(read, part)) for title, part in parts.items()]


def _transition_tables(study: ReportData) -> tuple[Table, ...]:
    """All nine transitions in % of the test images."""
    rows = []
    for group in study.groups:
        counts = transitions(study, group, TAU)
        if counts is not None:
            percent = (counts / counts.sum((1, 2), keepdims=True)).mean(0)
            rows.append((group.label, tuple(points(float(value)) for value in percent.ravel())))
    kinds = [outcome.removesuffix(" error") for outcome in OUTCOMES]
    columns = tuple(f"{before} to {after}" for before in kinds for after in kinds)
    title = f"From the standard network's answer to this one's: % of all test images, tau {TAU:g}"
    return (Table(title, columns, tuple(rows)),) if len(rows) > 1 else ()


def _class_view(study: ReportData, title: str, split: str) -> View | None:
    panels = []
    for heading, kinds in (("Error", WRONG), ("Indecisive error", INDECISIVE)):
        lines = tuple(line for group in study.groups if (line := _by_class(group, split, kinds)))
        axis = Axis("share of the class's images", percent=True)
        panels.append(Panel(heading, Axis("class", kind="category"), axis, lines))
    return view(title, panels)


def _by_class(group: Network, split: str, kinds: slice) -> Series | None:
    """Share of each class's images whose outcome is one of `kinds`, a mean over seeds."""
    found: dict[int, list[float]] = {}
    for record in group.records:
        labels, correct, margin = (
            record.array(f"margins/{split}_{name}") for name in ("label", "correct", "probability")
        )
        if labels is None or correct is None or margin is None:
            continue
        counts = cross_table(labels, outcomes(correct, margin, TAU), (int(labels.max()) + 1, len(OUTCOMES)))
        for label in np.flatnonzero(counts.sum(1)).tolist():
            found.setdefault(label, []).append(counts[label, kinds].sum() / counts[label].sum())
    if not found:
        return None
    ranked = sorted(found)
    return Series(
        group.label,
        tuple(map(str, ranked)),
        floats(np.array([np.mean(found[label]) for label in ranked])),
        mark="both",
    )
