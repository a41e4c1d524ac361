"""The headline table: one row per network, its accuracies and gaps with their intervals."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from robustlens.config import eps_text
from robustlens.report.data import Network, Quantity, ReportData, RunReport
from robustlens.report.text.flags import unexplained
from robustlens.report.text.learning import at_chance
from robustlens.report.text.wording import attack_name, minus, names, points, sentence, suite_name
from robustlens.results import EpochRecord
from robustlens.results.locks import owner
from robustlens.stats.intervals import Interval


@dataclass(frozen=True)
class Cell:
    """One number of the table. `value` sorts; `bar` places the interval in the column's range (%)."""

    text: str
    value: float | str | None = None
    interval: str = ""
    bar: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column: `hint` explains it, `unit` stands under its title."""

    key: str
    title: str
    hint: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """One network. `message` says why its numbers are missing."""

    network: Network
    cells: Mapping[str, Cell]
    message: str = ""


@dataclass(frozen=True)
class Headline:
    """The headline table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def csv_rows(self) -> list[dict[str, Any]]:
        """The table in full precision."""
        return [
            {
                "label": row.network.label,
                "method": row.network.method,
                "eps": row.network.eps,
                "column": column.key,
                **_ends(quantity(row.network, column.key)),
            }
            for row in self.rows
            for column in self.columns
            if column.numeric and column.key != "eps"
        ]


GAPS = {
    "robust": (
        "Robust gap",
        "Robust accuracy on training images minus on test images, under the same attack.",
        "points",
    ),
    "error": ("Error gap", "Error on test images minus on training images, without attack.", "points"),
    "loss": ("Loss gap", "Cross entropy on test images minus on training images, without attack.", "nats"),
}
_TIMES: dict[str, Callable[[EpochRecord], float]] = {
    "seconds": attrgetter("seconds"),
    "cpu_seconds": attrgetter("cpu_seconds"),
}
STATES = {
    "new": "not started",
    "training": "still training",
    "trained": "trained, not evaluated yet",
    "done": "done, but its evaluation is missing",
}
"""States of runs without an evaluation, in words."""
EXPLAINED = "explained, not evaluated"
"""State of a folder that holds an explanation alone, in which nothing is missing."""


def interval_caption(data: ReportData) -> str:
    """Meaning of the intervals under the numbers, for the numbers of seeds that have a result."""
    columns = [column.key for column in _columns(data)]
    counts = {runs_behind(network, key) for network in data.networks for key in columns}
    seeds = {min(count, 3) for count in counts if count}
    meanings = {
        1: "one seed: over images",
        2: "two seeds, too few for an interval over seeds: the mean, and from the lower end of their own "
        "intervals over images to the higher",
        3: "three seeds or more: Student's interval of their mean, or the mean ends of their own intervals "
        "over images where these reach further",
    }
    return f"Intervals are 95 %. {sentence('; '.join(meanings[n] for n in sorted(seeds)))}".rstrip()


def headline(data: ReportData) -> Headline:
    """One row per network, in the order of the study."""
    columns = tuple(_columns(data))
    ranges = {column.key: _range(data, column.key) for column in columns}
    rows = [
        Row(
            network,
            {column.key: _cell(network, column, ranges[column.key]) for column in columns},
            ""
            if any(run.evaluation for run in network.runs)
            else "; ".join(dict.fromkeys(state(run) for run in network.runs)),
        )
        for network in data.networks
    ]
    return Headline(columns, tuple(rows))


def quantity(network: Network, key: str) -> Interval | None:
    """The number of one column, with its interval."""
    if key in _TIMES:
        return _seconds(network, _TIMES[key])
    read = _result(key)
    if read is None:
        return None
    return network.over_seeds(read) if key.startswith("gap:") else network.share_over_seeds(read)


def runs_behind(network: Network, key: str) -> int:
    """Number of the runs whose results a column's number is of; 0 of a column that has none."""
    read = _result(key)
    return 0 if read is None else sum(read(run) is not None for run in network.runs)


def _result(key: str) -> Quantity | None:
    """What a column shows of the result of each run."""
    kind, _, name = key.partition(":")
    reads: dict[str, Quantity] = {
        "clean": lambda run: run.clean(),
        "attack": lambda run: run.after(name),
        "certified": lambda run: run.certified(name),
        "gap": lambda run: run.gap(name),
    }
    return reads.get(kind)


def state(run: RunReport) -> str:
    """State of a run without an evaluation, in words; one that nobody works on is incomplete."""
    status = run.record.status
    if run.error:
        return f"{'failed after training' if run.record.is_trained else status}: {run.error}"
    if status in ("training", "trained") and owner(run.source.folder) is None:
        done, wanted = run.record.epochs_done, run.recipe.optimizer.epochs if run.recipe else 0
        stopped = (
            f"training stopped after {done} of {wanted} epochs" if status == "training" else STATES[status]
        )
        return f"incomplete: {stopped}; the command that made it goes on"
    if status == "new" and run.explanation is not None:
        return EXPLAINED
    if status == "done" and run.problems:
        return "done, but without an evaluation that counts; see the notes"
    return STATES.get(status, status)


def notices(data: ReportData) -> list[tuple[str, str]]:
    """(who, what) of all that a reader must know: failures, networks at chance, damaged files, odd flags."""
    every = [("This report", problem) for problem in data.problems]
    for who, run in data.labelled_runs():
        if (run.error or run.evaluation is None) and state(run) != EXPLAINED:
            every.append((who, state(run)))
        if (guessing := at_chance(run)) is not None:
            every.append((who, guessing))
        if run.explanation is not None and not run.explanation.is_complete:
            every.append((who, "incomplete: not all measures of its explanation are there"))
        every += [(who, what) for what in (*unexplained(run), *run.problems)]
    return list(dict.fromkeys(every))


def _columns(data: ReportData) -> Iterator[Column]:
    method = "Method and strength, in the colour and marker of the plots."
    yield Column("method", "Network", method, numeric=False)
    yield Column(
        "eps", "eps", "Strength of the threat that training defended against; 0 is standard training."
    )
    yield Column("seeds", "Seed", "Training seeds of this row.", numeric=False)
    yield Column("clean", "Clean", "Accuracy on test images without attack.", "%")
    yield from _attacks(data)
    for method in data.certifiers:
        hint = f"Share of test images of which {method} proves that no attack breaks them: a lower bound."
        yield Column(f"certified:{method}", f"Certified ({method})", hint, "%")
    for key, (title, hint, unit) in GAPS.items():
        yield Column(f"gap:{key}", title, hint, unit)
    ends = "of an epoch of training: the mean, and below it the fastest and slowest"
    if all(not math.isnan(epoch.cpu_seconds) for run in data.runs for epoch in run.metrics):
        yield Column("cpu_seconds", "Time", f"Processor seconds, of all cores, {ends}.", "CPU s/epoch")
    else:
        yield Column("seconds", "Time", f"Wall-clock seconds {ends}; other work counts too.", "s/epoch")


def _attacks(data: ReportData) -> Iterator[Column]:
    before: list[str] = []
    for name, members in data.columns.items():
        title = suite_name(name) if members else attack_name(name)
        made_of = f" ({names(map(attack_name, members))})" if members else ""
        after = f" and after {names(before)}" if before else ""
        hint = f"Share of test images still right after {title}{made_of}{after}."
        yield Column(f"attack:{name}", title, f"{hint} A clean error counts as wrong.", "%")
        before.append(title)


def _cell(network: Network, column: Column, bounds: tuple[float, float]) -> Cell:
    if column.key == "method":
        return Cell(network.label, network.label)
    if column.key == "eps":
        return Cell(eps_text(network.eps), network.eps)
    if column.key == "seeds":
        return _seeds(network)
    interval, text = quantity(network, column.key), _writer(column.unit)
    if interval is None:
        return Cell("")
    if interval.low is None or interval.high is None:
        return Cell(text(interval.value), interval.value)
    low, high = bounds
    ends = {"low": interval.low, "value": interval.value, "high": interval.high, "zero": 0.0}
    bar = {name: 100 * min(1, max(0, (value - low) / (high - low or 1))) for name, value in ends.items()}
    between = f"{text(interval.low)} to {text(interval.high)}"
    return Cell(text(interval.value), interval.value, between, {} if column.key in _TIMES else bar)


def _writer(unit: str) -> Callable[[float], str]:
    """Function that writes numbers of a unit."""
    if unit in ("%", "points"):
        return lambda value: minus(points(value))
    if unit == "nats":
        return lambda value: minus(f"{value:.3f}")
    return lambda value: minus(f"{value:.2f}" if value < 10 else f"{value:.1f}")


def _range(data: ReportData, key: str) -> tuple[float, float]:
    """The range of a column's bars: shares from 0 to 1; gaps from the least to the greatest, and zero."""
    if not key.startswith("gap:"):
        return 0.0, 1.0
    keys = [key] if key == "gap:loss" else ["gap:robust", "gap:error"]
    intervals = [quantity(network, column) for network in data.networks for column in keys]
    ends = [end for i in intervals if i is not None for end in (i.low, i.high, i.value) if end is not None]
    return min([0.0, *ends]), max([0.0, *ends])


def _seeds(network: Network) -> Cell:
    evaluated = sum(run.evaluation is not None for run in network.runs)
    text = ", ".join(str(run.seed) for run in network.runs)
    if 0 < evaluated < len(network.runs):
        text = f"{evaluated} of {len(network.runs)}"
    return Cell(text, text)


def _seconds(network: Network, read: Callable[[EpochRecord], float]) -> Interval | None:
    every = (read(epoch) for run in network.runs for epoch in run.metrics)
    seconds = [value for value in every if not math.isnan(value)]
    return Interval(sum(seconds) / len(seconds), min(seconds), max(seconds)) if seconds else None


def _ends(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"value": None, "low": None, "high": None}
    return {"value": interval.value, "low": interval.low, "high": interval.high}
