"""The papers' claims as the page shows them: each with its effect, its statistic and its values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from robustlens.report.data import ReportData
from robustlens.report.text.wording import number
from robustlens.results import ClaimResult, Effect, Statistic


@dataclass(frozen=True)
class Dots:
    """One network's values of a claim's quantity, placed between the least and the greatest (%).

    `place` is that of the network, None for a label that is no network of the report.
    """

    label: str
    place: int | None
    text: str
    positions: tuple[float, ...]


@dataclass(frozen=True)
class Fact:
    """A number of a claim. `bar` places its interval on a bar with zero in the middle (%)."""

    name: str
    text: str
    bar: Mapping[str, float] = field(default_factory=dict)


def by_paper(data: ReportData) -> dict[str, list[ClaimResult]]:
    """Claims by paper, in their order."""
    papers: dict[str, list[ClaimResult]] = {}
    for claim in data.claims:
        papers.setdefault(claim.paper, []).append(claim)
    return papers


def facts(claim: ClaimResult) -> list[Fact]:
    """Effect and statistic of a claim in words, as far as there are numbers."""
    return [fact for quantity in (claim.effect, claim.statistic) if (fact := _fact(quantity))]


def dots(claim: ClaimResult, data: ReportData) -> list[Dots]:
    """Values of a claim's quantity, by network."""
    by_label: dict[str, list[float]] = {}
    for one in claim.values:
        if not math.isnan(one.value):
            by_label.setdefault(one.label, []).append(one.value)
    numbers = [value for own in by_label.values() for value in own]
    if not numbers:
        return []
    low, width = min(numbers), max(numbers) - min(numbers)
    places = {network.label: place for place, network in enumerate(data.networks)}
    return [
        Dots(
            label,
            places.get(label),
            number(sum(own) / len(own)),
            tuple(100 * (value - low) / width if width else 50.0 for value in own),
        )
        for label, own in by_label.items()
    ]


def _fact(quantity: Effect | Statistic) -> Fact | None:
    """An effect or a statistic in words, with its interval drawn around zero in the middle."""
    value, low, high = quantity.value, quantity.low, quantity.high
    if value is None:
        return None
    unit = quantity.unit if isinstance(quantity, Effect) else ""
    text = f"{number(value)} {unit}".strip()
    bar: dict[str, float] = {}
    if low is not None and high is not None:
        text += f" [{number(low)}, {number(high)}]"
        half = 1.15 * max(abs(low), abs(high), abs(value)) or 1.0
        bar = {"low": 50 + 50 * low / half, "value": 50 + 50 * value / half, "high": 50 + 50 * high / half}
    if isinstance(quantity, Statistic) and quantity.p is not None:
        text += f", p = {number(quantity.p, 2)}"
    return Fact(f"{quantity.name[:1].upper()}{quantity.name[1:]}", text, bar)
