"""What a claim is, what was found of it, and the one function that turns findings into a verdict."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["supported", "not supported", "inconclusive"]

ORDER = 0.5
"""Least Spearman correlation, in the claimed direction, over three strengths or more."""
SHARE = 2 / 3
"""Least share of layers, or of three pairs or more, that go the claimed way."""


class Unusable(Exception):  # noqa: N818 - a finding, not a failure: it ends as an inconclusive claim
    """The data cannot speak to the claim; the message says why, to the reader of the report."""


class Missing(Unusable):
    """A run has not been measured in this respect; others may have been."""


@dataclass(frozen=True)
class Statistic:
    """How consistently the quantity goes one way. `p` is exact or by permutation, two-sided."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Effect:
    """How far the quantity goes, with its 95 % interval."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, checked on one study. The fields are those of `claims.json`.

    `setting` says in which methods or at which checkpoint, where the study has several to check it in.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    verdict: Verdict = "inconclusive"
    why: str = ""
    statistic: Statistic = Statistic("")
    effect: Effect = Effect("")
    values: tuple[Mapping[str, Any], ...] = ()
    seeds: int = 0
    note: str = ""
    setting: str = ""

    def as_json(self) -> dict[str, Any]:
        """The entry of `claims.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """What a study shows of a claim, before the verdict.

    Args:
        seen: what happened, in words.
        size: what the effect is, in words that its value follows.
        effect: its size; positive means that the quantity grew.
        statistic: its consistency.
        agreement: the statistic as support for the claim (a correlation in the claimed direction, or the
            share of layers or pairs that go the claimed way); None where there are too few points to ask.
        needed: the least `agreement` for support.
        trend: the statistic in words.
        limitation: why the interval cannot be taken at its word; empty if it can.
        scale: size of the values compared, to tell a difference from rounding.
        values: one entry for each run.
        seeds: how many training seeds the effect rests on.
        note: what the interval covers, and what else to know.
    """

    seen: str
    size: str
    effect: Effect
    statistic: Statistic
    agreement: float | None
    needed: float
    trend: str
    limitation: str
    scale: float
    values: tuple[Mapping[str, Any], ...]
    seeds: int
    note: str


def decide(direction: int, found: Findings) -> tuple[Verdict, str]:
    """The verdict rule of `robustlens.claims`, and the sentence that says why.

    Args:
        direction: +1 where the claim says that the quantity grows, -1 where it falls.
        found: what the study shows.
    """
    effect = found.effect
    told = [found.seen]
    if effect.value is not None and effect.low is not None and effect.high is not None:
        told.append(f"{found.size} {effect.value:+.3g}{_unit(effect)} (95 % interval {_ends(effect)})")
    if found.trend:
        told.append(found.trend)
    facts = ", ".join(told)
    if effect.value is None or effect.low is None or effect.high is None:
        return "inconclusive", f"{facts}; {found.limitation or 'there is no interval'}."
    if not all(math.isfinite(number) for number in (effect.value, effect.low, effect.high)):
        return "inconclusive", f"{facts}; not a finite number."
    dust = 1e-9 * max(found.scale, abs(effect.value))
    if max(abs(effect.low), abs(effect.high)) <= dust:
        return "inconclusive", f"{facts}; there is no difference to judge."
    # Towards the claim is upwards from here on.
    low = min(direction * effect.low, direction * effect.high)
    high = max(direction * effect.low, direction * effect.high)
    if low <= dust and high >= -dust:
        return "inconclusive", f"{facts}; not clear, because the interval holds zero."
    if found.limitation:
        return "inconclusive", f"{facts}; not clear, because {found.limitation}."
    if high < 0:
        return "not supported", f"{facts}; the opposite of the claim."
    if found.agreement is not None and found.agreement < found.needed - 1e-9:
        lacking = f"support needs {found.needed:.2g} in the claimed direction"
        return "inconclusive", f"{facts}; not clear, because {lacking}."
    return "supported", f"{facts}."


def _unit(effect: Effect) -> str:
    return f" {effect.unit}" if effect.unit else ""


def _ends(effect: Effect) -> str:
    return f"{effect.low:+.3g} to {effect.high:+.3g}"
