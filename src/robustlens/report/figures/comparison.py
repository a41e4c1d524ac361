"""Each network against the standard one: how far its margins went, and what became of the same images."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import wasserstein_distance

from robustlens.report.data import Network, ReportData, RunReport, combined, dig
from robustlens.stats.intervals import Interval, wilson
from robustlens.stats.misclassification import OUTCOMES, cross_table, outcomes


def twins(study: ReportData, group: Network) -> Iterator[tuple[RunReport, RunReport]]:
    """Every run of the group, after the standard one of the same seed and setting, where there is one.

    A standard run is its own twin: the reference at which everything starts.
    """
    standard = {_place(record): record for record in study.records if _objective(record) == "standard"}
    for record in group.records:
        if found := standard.get(_place(record)):
            yield found, record


def distance(study: ReportData, group: Network, key: str) -> Interval | None:
    """Wasserstein-1 distance between an array of the network and of the standard one, over seeds."""
    return combined(
        Interval(float(wasserstein_distance(before, after)))
        for standard, record in twins(study, group)
        if (before := _finite(standard, key)).size and (after := _finite(record, key)).size
    )


def transitions(study: ReportData, group: Network, tau: float) -> np.ndarray | None:
    """Of each seed, how many test images went from each outcome to each: (seeds, 3, 3), or None.

    Rows are what the standard network made of an image, columns what this one makes of it, both in the order
    of `mistakes.OUTCOMES`. Images are paired by their index.
    """
    every = (_transitions(standard, record, tau) for standard, record in twins(study, group))
    found = [counts for counts in every if counts is not None]
    return np.stack(found) if found else None


def share(counts: np.ndarray, part: np.ndarray, whole: np.ndarray) -> Interval | None:
    """Of the transitions in `whole`, the share that is in `part`, over seeds; both are masks (3, 3)."""
    seeds = ((int(seed[part & whole].sum()), int(seed[whole].sum())) for seed in counts)
    return combined(wilson(top, bottom) for top, bottom in seeds if bottom)


def _finite(record: RunReport, key: str) -> np.ndarray:
    found = record.array(key)
    return np.empty(0) if found is None else found[np.isfinite(found)]


def _transitions(standard: RunReport, record: RunReport, tau: float) -> np.ndarray | None:
    before, after = _outcomes(standard, tau), _outcomes(record, tau)
    if before is None or after is None:
        return None
    _, first, second = np.intersect1d(before[0], after[0], return_indices=True)
    size = len(OUTCOMES)
    return cross_table(before[1][first], after[1][second], (size, size)) if len(first) else None


def _outcomes(record: RunReport, tau: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Index of every test image, and what became of it."""
    index, correct, margin = (
        record.array(f"margins/test_{name}") for name in ("index", "correct", "probability")
    )
    if index is None or correct is None or margin is None:
        return None
    return index, outcomes(correct, margin, tau)


def _objective(record: RunReport) -> str:
    return str(record.run.entry.get("objective") or dig(record.recipe, "objective") or "")


def _place(record: RunReport) -> tuple[str, int]:
    """What a network shares with its standard twin: everything but how it was trained."""
    return str(record.run.entry.get("setting")), record.seed
