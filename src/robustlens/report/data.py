"""Reads the runs of a study, or one run alone, into what the figures and the tables draw from.

A run that failed, is unfinished or lost a file stays in the report with its status; nothing that is missing
or damaged in one run hides another.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from robustlens.errors import RobustlensError, StateError
from robustlens.report.drawing.palette import Style, styles
from robustlens.results.folders import Run, StudyFolder, attack_columns
from robustlens.stats.intervals import Interval

FILES = ("run", "recipe", "evaluation", "explanation")
"""The JSON files of a run."""
Arrays = Literal["explanation", "evaluation"]
"""The files of a run that hold arrays."""
DISPLAY = {
    "standard": "Standard",
    "at": "AT",
    "trades": "TRADES",
    "mart": "MART",
    "fgsm": "FGSM",
    "alp": "ALP",
    "llr": "LLR",
    "cure": "CURE",
    "vat": "VAT",
    "gradient-penalty": "Gradient penalty",
}
"""Names of the objectives in the papers."""


@dataclass(frozen=True)
class Checkpoint:
    """What was measured of one run at an epoch along its training."""

    epoch: int
    is_last: bool
    evaluation: Mapping[str, Any]
    explanation: Mapping[str, Any]

    def interval(self, *path: str) -> Interval | None:
        """The interval at `path` of the evaluation."""
        return as_interval(dig(self.evaluation, *path))

    def number(self, measure: str, *path: str) -> Interval | None:
        """A number that a measure has at `path`."""
        return as_interval({"value": dig(self.explanation, "measures", measure, "value", *path)})


@dataclass
class RunReport:
    """One run, read once. `problems` are files that could not be read, one line each."""

    run: Run
    name: str
    label: str
    method: str
    eps: float
    seed: int
    status: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    explanation: dict[str, Any] = field(default_factory=dict)
    along: tuple[Checkpoint, ...] = ()
    """The checkpoints beside the chosen one, the earliest first."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint, where it is not the only one."""
        return next((checkpoint for checkpoint in self.along if checkpoint.is_last), None)

    @property
    def state(self) -> str:
        """The run's status in one word."""
        return str(self.status.get("status", "new"))

    @property
    def error(self) -> str:
        """Why the run failed, in one line; empty if it did not."""
        error = self.status.get("error")
        return str(dig(error, "message") or error) if error else ""

    @property
    def columns(self) -> dict[str, str]:
        """Attack, or suite that was asked for by name -> the attack after which it counts."""
        return attack_columns(self.evaluation) if self.evaluation.get("attacks") else {}

    @property
    def suites(self) -> dict[str, list[str]]:
        """The attacks of each suite that was asked for by name; none in older files."""
        return self.evaluation.get("suites") or {}

    def array(self, key: str, file: Arrays = "explanation") -> np.ndarray | None:
        """An array beside one of the JSON files, or None where it is absent, empty or cannot be read."""
        try:
            found = self.run.array(file, key)
        except (KeyError, StateError) as error:
            if isinstance(error, StateError) and getattr(self, file):
                self._problem(error)
            return None
        return found if found.size else None

    def _problem(self, error: Exception) -> None:
        told = _told(error, self.run)
        if told not in self.problems:
            self.problems.append(told)


@dataclass(frozen=True)
class Network:
    """The runs that differ in nothing but their seed: one row of the table, one line of a plot."""

    label: str
    method: str
    eps: float
    records: tuple[RunReport, ...]
    style: Style

    def arrays(self, key: str, file: Arrays = "explanation") -> list[np.ndarray]:
        """The array `key` of every seed that has it."""
        return [found for record in self.records if (found := record.array(key, file)) is not None]

    def values(self, *path: str) -> list[Any]:
        """What lies at `path` of the evaluation of every seed that has it."""
        found = (dig(record.evaluation, *path) for record in self.records)
        return [value for value in found if value is not None]

    def interval(self, *path: str) -> Interval | None:
        """The interval at `path` of the evaluation, over seeds."""
        return combined(as_interval(value) for value in self.values(*path))

    def right_after(self, column: str, split: str = "test") -> Interval | None:
        """Accuracy after an attack or a suite and all before it, over seeds."""
        return combined(
            as_interval(dig(record.evaluation, "splits", split, "by_attack", record.columns[column]))
            for record in self.records
            if column in record.columns
        )

    def measured(self, measure: str, *path: str) -> list[Any]:
        """What lies at `path` of a measure of every seed that has it."""
        found = (dig(record.explanation, "measures", measure, "value", *path) for record in self.records)
        return [value for value in found if value is not None]

    def number(self, measure: str, *path: str) -> Interval | None:
        """A number that a measure has at `path`, over seeds."""
        return combined(Interval(float(value)) for value in self.measured(measure, *path))

    def at_last(self, read: Callable[[Checkpoint], Interval | None]) -> Interval | None:
        """What `read` finds at the last checkpoint, over the seeds of which it was measured."""
        return combined(read(record.last) for record in self.records if record.last)

    def along(self, read: Callable[[Checkpoint], Interval | None]) -> dict[int, Interval]:
        """What `read` finds at every epoch along training that was measured for all seeds, over the seeds."""
        seeds = [
            {at.epoch: value for at in record.along if (value := read(at)) is not None}
            for record in self.records
            if record.along
        ]
        shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
        found = {epoch: combined(values[epoch] for values in seeds) for epoch in shared}
        return {epoch: value for epoch, value in found.items() if value is not None}

    def who(self, record: RunReport) -> str:
        """One of its runs, in words."""
        return self.label if len(self.records) == 1 else f"{self.label}, seed {record.seed}"


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows."""

    name: str
    folder: Path
    groups: tuple[Network, ...]
    claims: tuple[dict[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def records(self) -> list[RunReport]:
        """Every run."""
        return [record for group in self.groups for record in group.records]

    def first(self, *path: str) -> Any:
        """What lies at `path` of the first evaluation that has it: things that all runs of a study share."""
        return next((value for group in self.groups for value in group.values(*path)), None)

    @property
    def columns(self) -> dict[str, list[str]]:
        """Attacks and suites in their order, of all runs together; suites with their attacks."""
        return {name: record.suites.get(name, []) for record in self.records for name in record.columns}

    def layers(self, measure: str) -> list[str]:
        """Layers of a measure, in network order, of all runs together."""
        found = (value for group in self.groups for value in group.measured(measure, "layers"))
        return list(dict.fromkeys(str(layer) for layers in found for layer in layers))


def study(folder: Path) -> ReportData:
    """Read a study folder; raises `StateError` where `study.json` is missing or damaged."""
    source = StudyFolder(folder)
    meta = source.meta
    if not isinstance(meta.get("runs"), list):
        raise StateError(f"{folder}/study.json: no list of runs; run the study again to write it")
    problems, claims = [], []
    try:
        claims = source.claims
    except (RobustlensError, KeyError) as error:
        problems.append(f"claims.json cannot be read: {error}")
    return _collected(str(meta.get("name") or folder.name), folder, source.runs(), claims, meta, problems)


def single(folder: Path) -> ReportData:
    """Read one run folder that need not belong to a study; raises `StateError` where there is none."""
    if not any((folder / f"{name}.json").exists() for name in FILES):
        wanted = ", ".join(f"{name}.json" for name in FILES)
        raise StateError(
            f"{folder}: no run here, found none of {wanted}; name the folder of a run or a study"
        )
    return _collected(folder.name, folder, [Run(folder)], [], {}, [])


def dig(found: Any, *path: str) -> Any:
    """What lies at `path` of nested mappings, or None.

    >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": None}, "a", "b")
    (1, None)
    """
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def as_interval(found: Any) -> Interval | None:
    """An `Interval` from its JSON form, or None."""
    value, low, high = (dig(found, key) for key in ("value", "low", "high"))
    if not isinstance(value, int | float):
        return None
    bounded = isinstance(low, int | float) and isinstance(high, int | float)
    return Interval(float(value), float(low), float(high)) if bounded else Interval(float(value))


def combined(intervals: Iterable[Interval | None]) -> Interval | None:
    """One interval over seeds.

    One seed keeps its own interval (over examples). Two give their mean and range, three or more their mean
    and Student's 95 % interval of the mean; both speak of training again, not of the examples.

    >>> combined([Interval(0.2), Interval(0.4)])
    Interval(value=0.30000000000000004, low=0.2, high=0.4)
    """
    found = [interval for interval in intervals if interval is not None]
    if len(found) < 2:
        return found[0] if found else None
    values = np.array([interval.value for interval in found])
    mean = float(values.mean())
    if len(values) == 2:
        return Interval(mean, float(values.min()), float(values.max()))
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def _collected(
    name: str,
    folder: Path,
    runs: Iterable[Run],
    claims: list[dict[str, Any]],
    meta: Mapping[str, Any],
    problems: list[str],
) -> ReportData:
    together: dict[tuple[str, str, float], list[RunReport]] = {}
    for run in runs:
        record = _record(run)
        together.setdefault((record.label, record.method, record.eps), []).append(record)
    looks = styles([(method, eps) for _, method, eps in together])
    names = _unique([label for label, _, _ in together])
    groups = tuple(
        Network(label, method, eps, tuple(records), look)
        for label, ((_, method, eps), records), look in zip(names, together.items(), looks, strict=True)
    )
    return ReportData(name, folder, groups, tuple(claims), meta, tuple(problems))


def _unique(labels: list[str]) -> list[str]:
    """The labels, numbered where two networks share one."""
    seen: dict[str, int] = {}
    names = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        names.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return names


def _record(run: Run) -> RunReport:
    problems: list[str] = []

    def found(what: Callable[[], Any], empty: Any) -> Any:
        try:
            return what() or empty
        except RobustlensError as error:
            problems.append(_told(error, run))
            return empty

    read = {name: found(partial(run.read_json, name), {}) for name in FILES}
    along = tuple(
        Checkpoint(
            epoch,
            ending == "-last",
            *(found(partial(run.read_json, f"{name}{ending}"), {}) for name in ("evaluation", "explanation")),
        )
        for epoch, ending in found(partial(run.along, "evaluation"), {}).items()
    )
    recipe, entry = read["recipe"], run.entry
    method = str(entry.get("method") or _method(recipe) or run.folder.name)
    eps = _number(entry.get("eps"), dig(recipe, "threat", "eps"))
    return RunReport(
        run=run,
        name=str(entry.get("id") or run.folder.name),
        label=str(entry.get("label") or (method if eps == 0 else f"{method} {eps:g}")),
        method=method,
        eps=eps,
        seed=int(_number(entry.get("seed"), recipe.get("seed"))),
        status=read["run"],
        recipe=recipe,
        evaluation=read["evaluation"],
        explanation=read["explanation"],
        along=along,
        metrics=found(run.metrics, []),
        problems=problems,
    )


def _told(error: Exception, run: Run) -> str:
    """The error without the folders above the run: a report travels to other machines."""
    return str(error).replace(f"{run.folder.parent}/", "")


def _method(recipe: Mapping[str, Any]) -> str:
    if dig(recipe, "threat", "eps") == 0:
        return DISPLAY["standard"]
    objective = str(recipe.get("objective") or "")
    perturbed = [f"+{name.upper()}" for name in ("awp", "rwp", "sam") if recipe.get(name)]
    return DISPLAY.get(objective, objective) + "".join(perturbed)


def _number(*candidates: Any) -> float:
    return next((float(found) for found in candidates if isinstance(found, int | float)), 0.0)
