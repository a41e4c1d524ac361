"""Findings of a study on a claim, and the one function that turns them into a verdict."""

import math
from dataclasses import dataclass

from robustlens.results import DECIDING_SEEDS, ClaimValue, Decision, Effect, Statistic
from robustlens.stats.intervals import ROUNDING, rounded

ORDER = 0.5
"""Least Spearman correlation, in the claimed direction, over three strengths or more."""
SHARE = 2 / 3
"""Least share of layers, or of three pairs or more, that go the claimed way."""


@dataclass(frozen=True)
class Consistency:
    """Consistency with which a quantity goes one way.

    Args:
        statistic: the measure of it.
        agreement: the statistic as support for the claim (a correlation in the claimed direction, or the
            share of layers or pairs that go the claimed way); None where there are too few points to ask.
        needed: the least `agreement` for support.
        words: the statistic inside a sentence; empty where it goes without saying.
    """

    statistic: Statistic
    agreement: float | None
    needed: float
    words: str


@dataclass(frozen=True)
class Findings:
    """Everything that a study shows of a claim, before the verdict.

    Args:
        seen: the change or the comparison, in words.
        size: name of the effect inside a sentence, which its value follows.
        effect: how far the quantity goes; positive where it grew.
        consistency: how consistently it goes that way.
        values: one entry for each run.
        seeds: how many training seeds the effect rests on.
        replicates: the least number of seeds of a method, where these are not all the same number.
        note: coverage of the interval, and anything else to know.
        scale: size of the values compared, to tell a difference from rounding.
        limitation: why the interval alone does not decide; empty if it does.
    """

    seen: str
    size: str
    effect: Effect
    consistency: Consistency
    values: tuple[ClaimValue, ...]
    seeds: int
    note: str
    scale: float = 1.0
    limitation: str = ""
    replicates: int | None = None

    @property
    def decides(self) -> bool:
        """Whether there are enough seeds to speak of training anew."""
        return (self.seeds if self.replicates is None else self.replicates) >= DECIDING_SEEDS


def decide(direction: int, findings: Findings) -> tuple[Decision, str]:
    """The verdict of `robustlens.claims` on one claim by itself, and the sentence that gives the reason.

    Args:
        direction: +1 where the claim says that the quantity grows, -1 where it falls.
        findings: of the study.
    """
    effect, consistency = findings.effect, findings.consistency
    facts = ", ".join(part for part in (findings.seen, _size(findings), consistency.words) if part)
    if effect.value is None or effect.low is None or effect.high is None:
        return "inconclusive", f"{facts}; {findings.limitation or 'there is no interval'}."
    if not all(math.isfinite(number) for number in (effect.value, effect.low, effect.high)):
        return "inconclusive", f"{facts}; not a finite number."
    rounding = ROUNDING * max(findings.scale, abs(effect.value))
    if max(abs(effect.low), abs(effect.high)) <= rounding:
        return "inconclusive", f"{facts}; there is no difference to judge."
    # From here on the claimed direction is upwards.
    low, high = sorted((direction * effect.low, direction * effect.high))
    if low <= rounding and high >= -rounding:
        return "inconclusive", f"{facts}; not clear, because the interval holds zero."
    if findings.limitation:
        return "inconclusive", f"{facts}; not clear, because {findings.limitation}."
    if high < 0:
        return "not supported", f"{facts}; the opposite of the claim."
    if consistency.agreement is not None and consistency.agreement < consistency.needed - 1e-9:
        lacking = f"support needs {consistency.needed:.2g} in the claimed direction"
        return "inconclusive", f"{facts}; not clear, because {lacking}."
    return "supported", f"{facts}."


def _size(findings: Findings) -> str:
    """The effect with its unit and interval, in words; empty where it has none."""
    effect = findings.effect
    if effect.value is None or effect.low is None or effect.high is None:
        return ""
    unit = f" {effect.unit}" if effect.unit else ""
    value, low, high = (
        f"{rounded(end, findings.scale):+.3g}" for end in (effect.value, effect.low, effect.high)
    )
    return f"{findings.size} {value}{unit} (95 % interval {low} to {high})"
