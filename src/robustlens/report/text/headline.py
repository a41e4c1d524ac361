"""The headline table: one row per network, its accuracies and gaps with their intervals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from robustlens.config import eps_text
from robustlens.report.data import Network, ReportData, RunReport, dig
from robustlens.report.text.flags import SPLITS, flags_of
from robustlens.report.text.wording import attack_name, minus, names, points, suite_name
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

    group: Network
    look: int
    cells: Mapping[str, Cell]
    message: str = ""


@dataclass(frozen=True)
class Table:
    """The headline table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def csv_rows(self) -> list[dict[str, Any]]:
        """The table in full precision."""
        return [
            {"label": row.group.label, "method": row.group.method, "eps": row.group.eps, "column": c.key}
            | _ends(measured(row.group, c.key))
            for row in self.rows
            for c in self.columns
            if c.numeric and c.key != "eps"
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


def headline(study: ReportData) -> Table:
    """One row per network, in the order of the study."""
    columns = [
        Column(
            "method", "Network", "Method and strength, in the colour and marker of the plots.", numeric=False
        ),
        Column(
            "eps", "eps", "Strength of the threat that training defended against; 0 is standard training."
        ),
        Column("seeds", "Seed", "Training seeds of this row.", numeric=False),
        Column("clean", "Clean", "Accuracy on test images without attack.", "%"),
    ]
    columns += _attacks(study)
    columns += [Column(f"gap:{key}", title, hint, unit) for key, (title, hint, unit) in GAPS.items()]
    columns.append(
        Column(
            "seconds",
            "Time",
            "Training seconds an epoch: the mean, and below it the fastest and slowest.",
            "s/epoch",
        )
    )
    ranges = {c.key: _range(study, c.key) for c in columns}
    rows = [
        Row(
            group,
            place,
            {c.key: _cell(group, c, ranges[c.key]) for c in columns},
            "" if group.values("splits") else "; ".join(dict.fromkeys(told(r) for r in group.records)),
        )
        for place, group in enumerate(study.groups)
    ]
    return Table(tuple(columns), tuple(rows))


def measured(group: Network, key: str) -> Interval | None:
    """The number of one column, with its interval."""
    kind, _, name = key.partition(":")
    if kind == "clean":
        return group.interval("splits", "test", "clean")
    if kind == "attack":
        return group.right_after(name)
    if kind == "gap":
        return group.interval("gaps", name)
    return _seconds(group) if kind == "seconds" else None


def told(record: RunReport) -> str:
    """Where a run stands, in words."""
    if record.error:
        return f"{record.state}: {record.error}"
    words = {
        "new": "not started",
        "training": "still training",
        "trained": "trained, not evaluated yet",
        "done": "done, but its evaluation is missing",
    }
    return words.get(record.state, record.state)


def notices(study: ReportData) -> list[tuple[str, str]]:
    """(who, what) of all that a reader must know: failures, damaged files, flags that explain nothing."""
    found: list[tuple[str, str]] = [("This report", problem) for problem in study.problems]
    for group in study.groups:
        for record in group.records:
            who = group.who(record)
            if record.error or not record.evaluation:
                found.append((who, told(record)))
            for split in SPLITS:
                bare = (flag for flag in flags_of(record, split) if not flag.means)
                found.extend((who, f"{flag.seen} ({split} images)") for flag in bare)
            found.extend((who, problem) for problem in record.problems)
    return list(dict.fromkeys(found))


# -- pieces --------------------------------------------------------------------------------------------


def _attacks(study: ReportData) -> Iterator[Column]:
    before: list[str] = []
    for name, parts in study.columns.items():
        title = suite_name(name) if parts else attack_name(name)
        made_of = f" ({names(map(attack_name, parts))})" if parts else ""
        after = f" and after {names(before)}" if before else ""
        hint = f"Share of test images still right after {title}{made_of}{after}."
        yield Column(f"attack:{name}", title, f"{hint} A clean error counts as wrong.", "%")
        before.append(title)


def _cell(group: Network, column: Column, bounds: tuple[float, float]) -> Cell:
    if column.key == "method":
        return Cell(group.label, group.label)
    if column.key == "eps":
        return Cell(eps_text(group.eps), group.eps)
    if column.key == "seeds":
        return _seeds(group)
    found = measured(group, column.key)
    if found is None:
        return Cell("")
    share = column.unit in ("%", "points")
    write = (
        points
        if share
        else (lambda v: f"{v:.3f}")
        if column.unit == "nats"
        else (lambda v: f"{v:.2f}" if v < 10 else f"{v:.1f}")
    )
    if found.low is None or found.high is None:
        return Cell(minus(write(found.value)), found.value)
    low, high = bounds
    spot = {"low": found.low, "value": found.value, "high": found.high, "zero": 0.0}
    bar = {name: 100 * min(1, max(0, (value - low) / (high - low or 1))) for name, value in spot.items()}
    if column.unit == "s/epoch":
        bar = {}
    between = f"{minus(write(found.low))} to {minus(write(found.high))}"
    return Cell(minus(write(found.value)), found.value, between, bar)


def _range(study: ReportData, key: str) -> tuple[float, float]:
    """The range of a column's bars: shares from 0 to 1; gaps from the least to the greatest, and zero."""
    if not key.startswith("gap:"):
        return 0.0, 1.0
    keys = [key] if key == "gap:loss" else ["gap:robust", "gap:error"]
    found = [measured(group, k) for group in study.groups for k in keys]
    ends = [end for i in found if i is not None for end in (i.low, i.high, i.value) if end is not None]
    return min([0.0, *ends]), max([0.0, *ends])


def _seeds(group: Network) -> Cell:
    done = [record for record in group.records if record.evaluation]
    text = ", ".join(str(record.seed) for record in group.records)
    if 0 < len(done) < len(group.records):
        text = f"{len(done)} of {len(group.records)}"
    return Cell(text, text)


def _seconds(group: Network) -> Interval | None:
    found = [dig(epoch, "seconds") for record in group.records for epoch in record.metrics]
    seconds = [float(value) for value in found if isinstance(value, int | float)]
    if not seconds:
        return None
    return Interval(sum(seconds) / len(seconds), min(seconds), max(seconds))


def _ends(found: Interval | None) -> dict[str, float | None]:
    if found is None:
        return {"value": None, "low": None, "high": None}
    return {"value": found.value, "low": found.low, "high": found.high}
