"""`results.json`: the numbers of a report for programs, whose JSON Schema is published."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from robustlens.config.schema import DRAFT
from robustlens.report.data import ReportData
from robustlens.report.text.headline import Headline, interval_caption, notices, quantity, runs_behind
from robustlens.results import ClaimResult, Flag, ThreatRecord
from robustlens.results.values import plain
from robustlens.stats.intervals import Interval
from robustlens.version import __version__

FORMAT = 1
"""Of `results.json`; raised when a reader of the old one would misread it. New fields do not raise it."""


@dataclass(frozen=True)
class ReportedNumber:
    """A number with its 95 % interval; the ends are null where there is none."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReportedFlag:
    """A reason not to believe the numbers of a run, and the images on which it was raised."""

    run: str
    images: str
    flag: Flag


@dataclass(frozen=True)
class ReportedNetwork:
    """The runs that differ in nothing but their seed.

    Attributes:
        label, method: as the report calls them. eps: training strength.
        seeds: of its runs. status: of each run. recipes: hash of each; null where there is none.
        numbers: by column: "clean", "attack:NAME" (right after this attack or suite and all before it),
            "certified:METHOD" (proven to stand every attack), "gap:robust", "gap:error", "gap:loss". Rates
            and gaps of rates are shares, losses are nats; null where it was not measured.
        runs: by column, how many of its runs have a result, which the number is of.
        flags: of its evaluations.
    """

    label: str
    method: str
    eps: float
    seeds: tuple[int, ...]
    status: tuple[str, ...]
    recipes: tuple[str | None, ...]
    numbers: Mapping[str, ReportedNumber | None]
    runs: Mapping[str, int]
    flags: tuple[ReportedFlag, ...]


@dataclass(frozen=True)
class ReportResults:
    """The numbers of a report.

    Attributes:
        format: of this file. version: of robustlens. name: of the study or run.
        intervals: what the intervals mean. threat: of the evaluations; null where there are none.
        networks: in the order of the study. claims: as in `claims.json`.
        notes: as on the page: runs that failed or have no result, files that could not be read.
    """

    format: int
    version: str
    name: str
    intervals: str
    threat: ThreatRecord | None
    networks: tuple[ReportedNetwork, ...]
    claims: tuple[ClaimResult, ...]
    notes: tuple[str, ...]


def results(data: ReportData, table: Headline) -> ReportResults:
    """The numbers of a report and its headline table."""
    columns = [
        c.key
        for c in table.columns
        if c.key == "clean" or c.key.startswith(("attack:", "certified:", "gap:"))
    ]
    networks = tuple(
        ReportedNetwork(
            label=network.label,
            method=network.method,
            eps=network.eps,
            seeds=tuple(run.seed for run in network.runs),
            status=tuple(run.record.status for run in network.runs),
            recipes=tuple(run.record.recipe_hash or None for run in network.runs),
            numbers={key: _reported(quantity(network, key)) for key in columns},
            runs={key: runs_behind(network, key) for key in columns},
            flags=tuple(
                ReportedFlag(run.name, images, flag)
                for run in network.runs
                for images, split in (run.evaluation.splits if run.evaluation else {}).items()
                for flag in split.flags
            ),
        )
        for network in data.networks
    )
    threat = data.first(lambda evaluation: evaluation.threat)
    meaning = interval_caption(data)
    notes = tuple(f"{who}: {what}" for who, what in notices(data))
    return ReportResults(FORMAT, __version__, data.name, meaning, threat, networks, data.claims, notes)


def results_bytes(data: ReportData, table: Headline) -> bytes:
    """The content of `results.json`."""
    return (json.dumps(plain(results(data, table)), indent=1, allow_nan=False) + "\n").encode()


def results_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`: what a reader may rely on."""
    return {"$schema": DRAFT, **TypeAdapter(ReportResults).json_schema(mode="serialization")}


def _reported(interval: Interval | None) -> ReportedNumber | None:
    return None if interval is None else ReportedNumber(interval.value, interval.low, interval.high)
