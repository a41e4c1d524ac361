"""Figures of confidence: its distribution, and errors by how close they were.

Both are drawn twice: as they are, and of logits divided by each network's own temperature.
"""

from functools import partial

import numpy as np

from robustlens.report.data import LabelledArrays, Network, ReportData, RunReport
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, aligned, floats, view
from robustlens.report.figures.margins import TEMPERATURES
from robustlens.report.figures.panels import SHARE, SPLITS, histogram_series, interval_series, views
from robustlens.stats.intervals import Interval, share_over_seeds, wilson

EDGES = np.linspace(0, 1, 21)
TAUS = np.linspace(0, 1, 41)


def confidence(data: ReportData) -> Figure:
    """Histogram of the largest probability, for all, wrong and right images."""

    def panels(right: bool | None, prefix: str) -> list[Panel]:
        axis = Axis("confidence, the largest probability", range=(0.0, 1.0))
        return [
            Panel(title, axis, SHARE, histogram_series(_chosen(data, split, right, prefix), EDGES))
            for title, split in SPLITS
        ]

    return Figure(
        "confidence",
        "Margins",
        "Confidence",
        "Standard training piles its images up at 1, errors as well; a robust network is less sure of "
        "itself, above all where it is wrong.",
        views(
            *(
                view(f"{name}{ending}", aligned(panels(right, prefix)))
                for ending, prefix in TEMPERATURES
                for name, right in (("All images", None), ("Wrong images", False), ("Right images", True))
            )
        ),
        selector="Images",
        paper=2,
    )


def indecisive(data: ReportData) -> Figure:
    """Errors by how close they were: wrong with p_max - p_y below tau."""

    def panels(split: str, prefix: str) -> list[Panel]:
        lines = [
            [_indecisive(network, f"{split}_{prefix}probability", of_errors) for network in data.networks]
            for of_errors in (False, True)
        ]
        titles = (("Among all images", "share of all images"), ("Among the errors", "share of the errors"))
        return [
            Panel(
                title,
                Axis("tau (p_max - p_y < tau)"),
                Axis(unit, percent=True),
                tuple(line for line in own if line),
            )
            for (title, unit), own in zip(titles, lines, strict=True)
        ]

    return Figure(
        "indecisive",
        "Margins",
        "Indecisive errors",
        "Wen et al. expect robust networks to add errors that were close calls: their curves rise early, "
        "far to the left of tau = 1.",
        views(
            *(
                view(f"{title}{ending}", panels(split, prefix))
                for ending, prefix in TEMPERATURES
                for title, split in SPLITS
            )
        ),
        note="Bands are 95 % intervals, of one seed Wilson's.",
        selector="Images",
    )


def _chosen(data: ReportData, split: str, right: bool | None, prefix: str) -> LabelledArrays:
    """Confidence of the images that are right, or wrong; None for all."""
    key = f"{split}_{prefix}confidence"
    if right is None:
        return data.arrays("margins", key)
    every = []
    for network in data.networks:
        pairs = (
            (run.array("margins", key), run.array("margins", f"{split}_correct")) for run in network.runs
        )
        both = [(values, mask) for values, mask in pairs if values is not None and mask is not None]
        seeds = [values[mask == right] for values, mask in both if values.shape == mask.shape]
        every.append((network.label, [values for values in seeds if values.size]))
    return [(label, seeds) for label, seeds in every if seeds]


def _indecisive(network: Network, key: str, of_errors: bool) -> Series | None:
    """Share of the images, or of the errors, that are indecisive errors at each tau."""
    margins = {run.name: run.array("margins", key) for run in network.runs}

    def below(tau: float, run: RunReport) -> Interval | None:
        margin = margins[run.name]
        missed = np.empty(0) if margin is None else -margin[margin < 0]
        n = len(missed) if of_errors or margin is None else len(margin)
        return wilson(int((missed < tau).sum()), n) if n else None

    shares = [network.combined(share_over_seeds, partial(below, tau)) for tau in TAUS]
    points = [share for share in shares if share]
    return interval_series(network.label, floats(TAUS), points, "line") if points else None
