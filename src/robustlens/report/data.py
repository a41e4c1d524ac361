"""Runs of a study, or one run alone, as the figures and the tables draw from them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from robustlens.config import LAST, Checkpoint, Recipe
from robustlens.errors import StateError
from robustlens.report.drawing.palette import Style
from robustlens.results import (
    ClaimResult,
    EpochRecord,
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Run,
    RunRecord,
    SplitResult,
    StudyRecord,
)
from robustlens.results.values import Arrays
from robustlens.stats.intervals import Interval, over_seeds, share_over_seeds

Value = TypeVar("Value")
LabelledArrays = list[tuple[str, list[np.ndarray]]]
"""Label of a network, and an array of each of its seeds that has one."""


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """Evaluation and explanation of one checkpoint of a run, as far as they are there.

    Attributes:
        evaluation, explanation: None where there is none, or where its file cannot be read.
        checkpoint, epoch: which one it is, beside the chosen one; None and 0 for the chosen one.
    """

    evaluation: EvaluationResult | None = None
    explanation: ExplanationResult | None = None
    checkpoint: Checkpoint | None = None
    epoch: int = 0

    def split(self, name: str) -> SplitResult | None:
        """Numbers of the images called `name`, if they were attacked."""
        return self.evaluation.splits.get(name) if self.evaluation else None

    def clean(self, split: str = "test") -> Interval | None:
        """Accuracy without attack."""
        part = self.split(split)
        return known(part.clean) if part else None

    def robust(self, split: str = "test") -> Interval | None:
        """Accuracy under every attack."""
        part = self.split(split)
        return known(part.robust) if part else None

    def after(self, column: str, split: str = "test") -> Interval | None:
        """Accuracy after an attack or a suite, and all before it."""
        return known(self.evaluation.after(column, split)) if self.evaluation else None

    def certified(self, method: str, split: str = "test") -> Interval | None:
        """Accuracy that a method has proven."""
        part = self.split(split)
        return known(part.certified.get(method)) if part else None

    def gap(self, name: str) -> Interval | None:
        """Difference between training and test images: "robust", "error" or "loss"."""
        return known(self.evaluation.gaps.get(name)) if self.evaluation else None

    def at(self, measure: str, *path: str) -> Any:
        """The content at `path` of a measure's value; None where there is nothing."""
        measurement = self._measurement(measure)
        return measurement.at(*path) if measurement else None

    def number(self, measure: str, *path: str) -> Interval | None:
        """The number at `path` of a measure's value."""
        measurement = self._measurement(measure)
        value = measurement.number(*path) if measurement else None
        return None if value is None else Interval(value)

    def array(self, measure: str, key: str) -> np.ndarray | None:
        """An array of a measure; None where it is absent or empty."""
        measurement = self._measurement(measure)
        return _filled(measurement.arrays, key) if measurement else None

    def split_array(self, split: str, key: str) -> np.ndarray | None:
        """An array of an evaluated split; None where it is absent or empty."""
        part = self.split(split)
        return _filled(part.arrays, key) if part else None

    def _measurement(self, name: str) -> Measurement | None:
        return self.explanation.measures.get(name) if self.explanation else None


Quantity = Callable[[CheckpointReport], Interval | None]
"""Takes one number, with its interval, out of what is known of a checkpoint."""
Combine = Callable[[Iterable[Interval | None]], Interval | None]
"""Makes one interval of those of several seeds: `over_seeds`, or `share_over_seeds`."""


@dataclass(frozen=True, kw_only=True)
class RunReport(CheckpointReport):
    """One run, read once, at its chosen checkpoint.

    Attributes:
        source: its folder. name, label, method, eps, seed: as the study has them, else from the recipe.
        record: where it stands. recipe: None where it cannot be read.
        other_checkpoints: those beside the chosen one, the earliest first.
        metrics: its epochs. problems: files that could not be read, one line each.
    """

    source: Run
    name: str
    label: str
    method: str
    eps: float
    seed: int
    record: RunRecord = field(default_factory=RunRecord)
    recipe: Recipe | None = None
    other_checkpoints: tuple[CheckpointReport, ...] = ()
    metrics: tuple[EpochRecord, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def last(self) -> CheckpointReport | None:
        """The last checkpoint, where it is not the only one."""
        return next((one for one in self.other_checkpoints if one.checkpoint == LAST), None)

    @property
    def error(self) -> str:
        """Reason for which the run failed, in one line; empty if it did not."""
        return self.record.error.message if self.record.error else ""

    @property
    def objective(self) -> str:
        """Name of its training objective; empty where that is not known."""
        entry = self.source.entry
        return (entry.objective if entry else "") or (self.recipe.objective if self.recipe else "")

    @property
    def setting(self) -> str | None:
        """Hash of what it shares with the runs that it is compared with."""
        return self.source.entry.setting if self.source.entry else None


@dataclass(frozen=True)
class Network:
    """The runs that differ in nothing but their seed: one row of the table, one line of a plot.

    Attributes:
        members: of a group of networks, which stands for them in a plot; its runs are theirs. Else empty.
    """

    label: str
    method: str
    eps: float
    runs: tuple[RunReport, ...]
    style: Style
    members: "tuple[Network, ...]" = ()

    def combined(self, combine: Combine, quantity: Callable[[RunReport], Interval | None]) -> Interval | None:
        """A quantity of each run over the seeds; of a group over its networks, each over its seeds first."""
        if self.members:
            return combine(member.combined(combine, quantity) for member in self.members)
        return combine(quantity(run) for run in self.runs)

    def over_seeds(self, quantity: Quantity) -> Interval | None:
        """A quantity of the chosen checkpoint, over the seeds of which it is known."""
        return self.combined(over_seeds, quantity)

    def share_over_seeds(self, quantity: Quantity) -> Interval | None:
        """The same of a quantity that is a share, whose interval stays within 0 and 1."""
        return self.combined(share_over_seeds, quantity)

    def at_last(self, quantity: Quantity) -> Interval | None:
        """A quantity of the last checkpoint, over the seeds of which it is known."""
        return self.combined(over_seeds, lambda run: quantity(run.last) if run.last else None)

    def over_epochs(self, quantity: Quantity, combine: Combine) -> dict[int, Interval]:
        """A quantity at every epoch along training at which it is known of all seeds, over the seeds."""
        if self.members:
            members = [values for one in self.members if (values := one.over_epochs(quantity, combine))]
            return _at_shared_epochs(members, combine)
        seeds = [
            {
                checkpoint.epoch: value
                for checkpoint in run.other_checkpoints
                if (value := quantity(checkpoint))
            }
            for run in self.runs
            if run.other_checkpoints
        ]
        return _at_shared_epochs(seeds, combine)

    def measured(self, measure: str, *path: str) -> list[Any]:
        """The content at `path` of a measure's value, of every seed that has it."""
        values = (run.at(measure, *path) for run in self.runs)
        return [value for value in values if value is not None]

    def number(self, measure: str, *path: str) -> Interval | None:
        """The number at `path` of a measure's value, over seeds."""
        return self.over_seeds(lambda run: run.number(measure, *path))

    def arrays(self, measure: str, key: str) -> list[np.ndarray]:
        """An array of a measure, of every seed that has it."""
        arrays = (run.array(measure, key) for run in self.runs)
        return [array for array in arrays if array is not None]

    def splits(self, name: str) -> list[SplitResult]:
        """The images called `name`, of every seed that was attacked on them."""
        return [part for run in self.runs if (part := run.split(name))]

    def run_label(self, run: RunReport) -> str:
        """One of its runs, in words."""
        return self.label if len(self.runs) == 1 else f"{self.label}, seed {run.seed}"


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows. `study` is empty for a run alone."""

    name: str
    networks: tuple[Network, ...]
    study: StudyRecord = field(default_factory=StudyRecord)
    claims: tuple[ClaimResult, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunReport]:
        """Every run."""
        return [run for network in self.networks for run in network.runs]

    def labelled_runs(self) -> Iterator[tuple[str, RunReport]]:
        """Every run, and what it is called in words."""
        return ((network.run_label(run), run) for network in self.networks for run in network.runs)

    def first(self, read: Callable[[EvaluationResult], Value | None]) -> Value | None:
        """The result of `read` on the first evaluation that has one: things that all runs share."""
        values = (read(run.evaluation) for run in self.runs if run.evaluation)
        return next((value for value in values if value is not None), None)

    def first_split(self, name: str) -> SplitResult | None:
        """The images called `name`, of the first run that was attacked on them."""
        return next((part for network in self.networks for part in network.splits(name)), None)

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Attacks and suites in their order, of all runs together; suites with their attacks."""
        evaluations = [run.evaluation for run in self.runs if run.evaluation]
        return {name: result.suites.get(name, ()) for result in evaluations for name in result.columns}

    @property
    def certifiers(self) -> list[str]:
        """Methods that some network was certified by, in the order in which they appear."""
        parts = (part for network in self.networks for part in network.splits("test"))
        return list(dict.fromkeys(name for part in parts for name in part.certified))

    def layers(self, measure: str) -> list[str]:
        """Layers of a measure, in network order, of all runs together."""
        values = (value for network in self.networks for value in network.measured(measure, "layers"))
        return list(dict.fromkeys(str(layer) for layers in values for layer in layers))

    def arrays(self, measure: str, key: str) -> LabelledArrays:
        """An array of a measure, of every network that has it."""
        every = ((network.label, network.arrays(measure, key)) for network in self.networks)
        return [(label, arrays) for label, arrays in every if arrays]


def known(interval: Interval | None) -> Interval | None:
    """The interval; None where its value is not a number.

    >>> known(Interval(0.5)), known(Interval(math.nan))
    (Interval(value=0.5, low=None, high=None), None)
    """
    return None if interval is None or math.isnan(interval.value) else interval


def _at_shared_epochs(every: list[dict[int, Interval]], combine: Combine) -> dict[int, Interval]:
    """One interval for each epoch that all of them have."""
    shared = sorted(set.intersection(*map(set, every))) if every else []
    combined = {epoch: combine(values[epoch] for values in every) for epoch in shared}
    return {epoch: value for epoch, value in combined.items() if value is not None}


def _filled(arrays: Arrays, key: str) -> np.ndarray | None:
    """An array that is there and not empty or all NaN; a damaged file, which reading has named, has none."""
    try:
        array = arrays.get(key)
    except StateError:
        return None
    if array is None or array.size == 0 or (array.dtype.kind == "f" and bool(np.isnan(array).all())):
        return None
    return array
