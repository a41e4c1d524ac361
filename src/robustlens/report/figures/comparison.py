"""Each network against the standard one: distance of its margins, and transitions of the same images."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from robustlens.report.data import Network, ReportData, RunReport
from robustlens.report.text.wording import names
from robustlens.results import RunEntry, standard_networks
from robustlens.stats.intervals import Interval, over_seeds, share_over_seeds, wilson
from robustlens.stats.misclassification import OUTCOMES, cross_table, outcomes
from robustlens.stats.samples import wasserstein_distance


def matched_pairs(data: ReportData, network: Network) -> Iterator[tuple[RunReport, RunReport]]:
    """Every run of the network, after the standard one of the same seed and setting, where there is one.

    The standard one (`results.standard_networks`) is paired with itself: everything starts there.
    """
    standard = {run.name: run for run in data.runs if run.objective == "standard"}
    chosen = standard_networks(map(_entry, standard.values()))
    for run in network.runs:
        if reference := chosen.get((run.setting, run.seed)):
            yield standard[reference.id], run


def reference_names(data: ReportData) -> str:
    """Labels of the standard networks, in brackets, where the study has others that could be meant."""
    labels = {network.label for network in data.networks if network.runs[0].objective == "standard"}
    used = dict.fromkeys(
        before.label for network in data.networks for before, _ in matched_pairs(data, network)
    )
    return f" ({names(used)})" if len(labels) > 1 and used else ""


def _entry(run: RunReport) -> RunEntry:
    """The run as its study has it, else by its recipe."""
    known = run.source.entry or RunEntry(run.name, "", run.label, seed=run.seed)
    return replace(known, objective=run.objective)


def distance(data: ReportData, network: Network, measure: str, key: str) -> Interval | None:
    """Wasserstein-1 distance between an array of the network and of the standard one, over seeds."""
    standard = {run.name: reference for reference, run in matched_pairs(data, network)}

    def of_run(run: RunReport) -> Interval | None:
        if run.name not in standard:
            return None
        before, after = (_finite(one, measure, key) for one in (standard[run.name], run))
        return Interval(wasserstein_distance(before, after)) if before.size and after.size else None

    return network.combined(over_seeds, of_run)


def transitions(data: ReportData, network: Network, tau: float) -> np.ndarray | None:
    """Numbers of test images that went from each outcome to each, seed by seed: (seeds, 3, 3), or None.

    Rows are what the standard network made of an image, columns what this one makes of it, both in the order
    of `misclassification.OUTCOMES`. Images are paired by their index.
    Of a group they are means over the seeds of each of its networks.
    """
    if network.members:
        members = [transitions(data, member, tau) for member in network.members]
        means = [counts.mean(axis=0) for counts in members if counts is not None]
        return np.stack(means) if means else None
    every = (_transitions(standard, run, tau) for standard, run in matched_pairs(data, network))
    seeds = [counts for counts in every if counts is not None]
    return np.stack(seeds) if seeds else None


def share(counts: np.ndarray, part: np.ndarray, whole: np.ndarray) -> Interval | None:
    """Share of the transitions in `whole` that is in `part`, over seeds; both are masks (3, 3)."""
    seeds = ((round(float(seed[part & whole].sum())), round(float(seed[whole].sum()))) for seed in counts)
    return share_over_seeds(wilson(top, bottom) for top, bottom in seeds if bottom)


def _finite(run: RunReport, measure: str, key: str) -> np.ndarray:
    array = run.array(measure, key)
    return np.empty(0) if array is None else array[np.isfinite(array)]


def _transitions(standard: RunReport, run: RunReport, tau: float) -> np.ndarray | None:
    before, after = _outcomes(standard, tau), _outcomes(run, tau)
    if before is None or after is None:
        return None
    _, first, second = np.intersect1d(before[0], after[0], return_indices=True)
    size = len(OUTCOMES)
    return cross_table(before[1][first], after[1][second], (size, size)) if len(first) else None


def _outcomes(run: RunReport, tau: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Index of every test image, and its outcome."""
    index, correct, margin = (
        run.array("margins", f"test_{name}") for name in ("index", "correct", "probability")
    )
    if index is None or correct is None or margin is None:
        return None
    return index, outcomes(correct, margin, tau)
