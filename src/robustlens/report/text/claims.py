"""The papers' claims as the page shows them: each with its effect, its statistic and its values."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from robustlens.report.data import ReportData
from robustlens.report.text.wording import names, number, p_value
from robustlens.results import DECIDING_SEEDS, ClaimResult, Effect, Statistic, Verdict

VERDICTS: tuple[Verdict, ...] = (
    "supported",
    "not supported",
    "inconclusive",
    "as claimed",
    "opposite",
    "unclear",
)
"""Verdicts of tested claims, in the order in which they are counted."""


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


@dataclass(frozen=True)
class UntestedClaim:
    """Claims that a study has nothing to test on, by the reason; `yaml` would measure what it can."""

    reasons: Mapping[str, tuple[str, ...]]
    yaml: str

    @property
    def number(self) -> int:
        """Number of claims."""
        return sum(map(len, self.reasons.values()))


def by_paper(data: ReportData) -> dict[str, list[ClaimResult]]:
    """Claims that were tested, by paper, in their order."""
    papers: dict[str, list[ClaimResult]] = {}
    for claim in data.claims:
        if claim.verdict != "untested":
            papers.setdefault(claim.paper, []).append(claim)
    return papers


def untested(claims: Iterable[ClaimResult]) -> UntestedClaim:
    """Claims that were not tested, and what would test them."""
    lacking = [claim for claim in claims if claim.verdict == "untested"]
    reasons: dict[str, list[str]] = {}
    for claim in lacking:
        where = f" ({claim.setting})" if claim.setting else ""
        reasons.setdefault(claim.why, []).append(claim.statement.rstrip(".") + where)
    lines: dict[str, Any] = {}
    for remedy in dict.fromkeys(claim.remedy for claim in lacking if claim.remedy):
        lines = _merged(lines, yaml.safe_load(remedy))
    text = yaml.safe_dump(lines, sort_keys=False, default_flow_style=None, width=100).strip() if lines else ""
    return UntestedClaim({why: tuple(own) for why, own in reasons.items()}, text)


def verdict_counts(claims: Sequence[ClaimResult]) -> str:
    """Numbers of claims that were tested, decided and described, and how they came out, in sentences."""
    counts = Counter(claim.verdict for claim in claims)
    decided, described = (_counted(counts, VERDICTS[:3]), _counted(counts, VERDICTS[3:]))
    tested = len(claims) - counts["untested"]
    if not tested:
        return f"Of the {len(claims)} claims of the papers, none could be tested on these runs."
    sentences = [f"{_claims(tested)} of the papers {'was' if tested == 1 else 'were'} tested."]
    if decided:
        sentences.append(f"Decided over training seeds: {decided}.")
    if described:
        few = f" (a decision takes {DECIDING_SEEDS} training seeds or more)"
        sentences.append(f"Described on these networks only{few}: {described}.")
    if counts["untested"]:
        sentences.append(f"{counts['untested']} {'is' if counts['untested'] == 1 else 'are'} untested.")
    return " ".join(sentences)


def total(claims: Sequence[ClaimResult]) -> str:
    """Number of claims, and of the papers that make them."""
    papers = len({claim.paper for claim in claims})
    return f"{_claims(len(claims))} of {papers} paper{'' if papers == 1 else 's'}:"


def tally(claims: Sequence[ClaimResult]) -> list[tuple[Verdict, int, str]]:
    """Every verdict that occurs, how often, and its wording: decided, then described, then untested."""
    counts = Counter(claim.verdict for claim in claims)
    wordings = {claim.verdict: claim.wording for claim in claims}
    verdicts: tuple[Verdict, ...] = (*VERDICTS, "untested")
    return [(verdict, counts[verdict], wordings[verdict]) for verdict in verdicts if counts[verdict]]


def by_chance(claims: Sequence[ClaimResult]) -> list[str]:
    """Number of verdicts that would come out by chance, and what is done about it, in sentences."""
    decided = [claim for claim in claims if claim.scope == "decided"]
    sentences = []
    if decided:
        out = sum(claim.verdict != "inconclusive" for claim in decided)
        by_themselves = number(0.05 * len(decided), 2)
        each = (
            f"{_claims(len(decided))} {'is' if len(decided) == 1 else 'are'} decided here. One by one, at "
            f"95 % each, {by_themselves} would come out by chance where nothing has an effect"
        )
        if any(claim.adjusted_p is not None for claim in decided):
            sentences.append(
                f"{each}; so they are controlled together (Benjamini and Hochberg 1995): of the {out} "
                f"that came out, {number(0.05 * out, 2)} on average at most by chance. Intervals are of each "
                "claim by itself."
            )
        else:
            sentences.append(f"{each}; the version that checked them did not control them together.")
    if any(claim.scope == "described" for claim in claims):
        sentences.append(
            "Described claims speak of the networks that were trained here: their intervals are over images "
            "(or layers), and another training seed may turn them round. How many come out as claimed by "
            "chance cannot be said of so few seeds."
        )
    if any("second look" in claim.note for claim in claims):
        sentences.append("Second looks, in the evidence of a claim, decide nothing.")
    return sentences


def facts(claim: ClaimResult) -> list[Fact]:
    """Effect and statistic of a claim in words, as far as there are numbers.

    A description shows its statistic without interval and p-value: layers or strengths of one network are no
    sample of networks.
    """
    values = (abs(one.value) for one in claim.values if not math.isnan(one.value))
    scale = 100.0 if claim.effect.unit == "%" else max(values, default=0.0)
    decided = claim.scope == "decided"
    statistic = claim.statistic if decided else replace(claim.statistic, low=None, high=None, p=None)
    quantities = ((claim.effect, scale), (statistic, 1.0))
    every = [fact for quantity, own in quantities if (fact := _fact(quantity, own))]
    if claim.adjusted_p is not None and claim.effect.p is not None:
        among = p_value(claim.adjusted_p)
        every.append(Fact("Among all decided claims", f"{p_value(claim.effect.p)} alone, {among} together"))
    return every


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
    scale = max(map(abs, numbers))
    places = {network.label: place for place, network in enumerate(data.networks)}
    return [
        Dots(
            label,
            places.get(label),
            number(sum(own) / len(own), scale=scale),
            tuple(100 * (value - low) / width if width else 50.0 for value in own),
        )
        for label, own in by_label.items()
    ]


def _merged(one: Any, other: Any) -> Any:
    """Two parts of a study file in one: mappings key by key, lists without what they share."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {key: _merged(one[key], value) if key in one else value for key, value in other.items()}
    if isinstance(one, list) and isinstance(other, list):
        return one + [item for item in other if item not in one]
    return other


def _counted(counts: Mapping[Verdict, int], verdicts: Iterable[Verdict]) -> str:
    return names(f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict])


def _claims(n: int) -> str:
    return "1 claim" if n == 1 else f"{n} claims"


def _fact(quantity: Effect | Statistic, scale: float) -> Fact | None:
    """An effect or a statistic in words, with its interval drawn around zero in the middle."""
    value, low, high = quantity.value, quantity.low, quantity.high
    if value is None:
        return None
    unit = quantity.unit if isinstance(quantity, Effect) else ""
    text = f"{number(value, scale=scale)} {unit}".strip()
    bar: dict[str, float] = {}
    if low is not None and high is not None:
        text += f" [{number(low, scale=scale)}, {number(high, scale=scale)}]"
        half = 1.15 * max(abs(low), abs(high), abs(value)) or 1.0
        bar = {"low": 50 + 50 * low / half, "value": 50 + 50 * value / half, "high": 50 + 50 * high / half}
    if isinstance(quantity, Statistic) and quantity.p is not None:
        text += f", {p_value(quantity.p)}"
    return Fact(f"{quantity.name[:1].upper()}{quantity.name[1:]}", text, bar)
