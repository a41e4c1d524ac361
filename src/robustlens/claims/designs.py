"""How a claim is put to a study: over a ladder of strengths, or over pairs with and without AWP.

A design gathers the runs it needs, reads one quantity of each, and returns `Findings`. It knows the direction
that a paper claims only to express agreement; the verdict is `findings.decide`'s. The designs that correlate
two quantities are in `associations`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robustlens.claims.evidence import Estimate, Estimator, StudyData, listed, read
from robustlens.claims.pairs import Change, SensitivityCheck, Twin, effect, limitation, note, share, went
from robustlens.claims.verdict import (
    ORDER,
    SHARE,
    Claim,
    Effect,
    Findings,
    Missing,
    Statistic,
    Unusable,
    decide,
)
from robustlens.stats import bootstrap as st
from robustlens.stats.bootstrap import Array


@dataclass(frozen=True)
class Hypothesis:
    """An entry of the registry: what a paper claims, of which quantity, in which direction.

    Args:
        id: stable name.
        paper: short citation.
        statement: the claim in one sentence.
        quantity: what is measured, and why so, in words.
        noun: the quantity's short name inside a sentence.
        unit: of the quantity.
        measure: the quantity as a function of a run.
        direction: +1 where the claim says it grows, -1 where it falls.
        design: `STRENGTH_SWEEP`, `PAIRS`, or one of `associations`.
        also: second looks, for the note.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    noun: str
    unit: str
    measure: Estimator
    direction: Literal[-1, 1]
    design: "Design"
    also: tuple[SensitivityCheck, ...] = ()

    def claims(self, evidence: StudyData) -> list[Claim]:
        """The claim on every part of the evidence that it speaks of apart.

        A part beyond the first is passed over where nothing of it was measured, which the first one says.
        """
        first, *others = self.design.parts(evidence)
        needed = (self.measure, *self.design.reads)
        measured = [part for part in others if all(_is_measured(measure, part) for measure in needed)]
        return [self.check(part) for part in (first, *measured)]

    def check(self, evidence: StudyData) -> Claim:
        """The claim on this evidence; whatever is lacking makes it inconclusive, and `why` says what."""
        claim = Claim(self.id, self.paper, self.statement, self.quantity, setting=evidence.setting)
        try:
            found = self.design.findings(self, evidence)
        except Unusable as reason:
            return replace(claim, why=_sentence(str(reason)))
        verdict, why = decide(self.direction, found)
        return replace(
            claim,
            verdict=verdict,
            why=_sentence(why),
            statistic=found.statistic,
            effect=found.effect,
            values=found.values,
            seeds=found.seeds,
            note=found.note,
        )


@dataclass(frozen=True)
class Design:
    """How findings come of evidence, the parts of it that are asked one by one, and what else is read."""

    findings: Callable[[Hypothesis, StudyData], Findings]
    parts: Callable[[StudyData], Sequence[StudyData]] = lambda evidence: [evidence]
    reads: tuple[Estimator, ...] = ()


def _is_measured(measure: Estimator, evidence: StudyData) -> bool:
    """Whether any run has the quantity, be it one that cannot be used."""
    for source in evidence.sources:
        try:
            measure(source)
        except Missing:
            continue
        except Unusable:
            pass
        return True
    return False


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# -- designs -------------------------------------------------------------------------------------------


def _ladder(hypothesis: Hypothesis, evidence: StudyData) -> Findings:
    """Standard against ever stronger adversarial training: strongest minus weakest, seed by seed.

    Raises:
        Unusable: fewer than two strengths, or an end of the ladder that was not measured.
    """
    planned = evidence.ladder()
    strengths = sorted({source.eps for source in planned})
    if len(strengths) < 2:
        found = f"{len(strengths)} (eps {strengths[0]:g})" if strengths else "none"
        raise Unusable(
            f"needs at least two strengths of standard and adversarial training without AWP, found {found}"
        )
    readings, missing = read(hypothesis.measure, planned)
    at = {(reading.source.eps, reading.source.seed): reading for reading in readings}
    weakest, strongest = strengths[0], strengths[-1]
    twins = [
        (seed, reading, at[strongest, seed])
        for (eps, seed), reading in at.items()
        if eps == weakest and (strongest, seed) in at
    ]
    if not twins:
        raise Unusable(
            listed(missing) or "no training seed was run at both the weakest and the strongest strength"
        )
    change = effect(twins, evidence)
    if change.layers is not None:
        return _over_layers(hypothesis, twins, readings, missing, change, change.layers)
    x = np.array([reading.source.eps for reading in readings])
    y = np.array([float(reading.value) for reading in readings])
    seeds = np.array([reading.source.seed for reading in readings])
    steps = len(set(x.tolist()))
    rho = st.spearman(x, y)
    p = None if rho is None else st.spearman_p(x, y, seeds, evidence.bootstrap.generator("spearman"))
    told = rho is not None and steps >= 3
    return Findings(
        seen=describe_change(hypothesis.noun, twins),
        size="a change of",
        effect=Effect(
            f"{hypothesis.noun}, strongest minus weakest",
            change.value,
            change.low,
            change.high,
            hypothesis.unit,
        ),
        statistic=Statistic(f"Spearman over {steps} strengths", rho, p=p),
        agreement=hypothesis.direction * (rho or 0.0) if steps >= 3 else None,
        needed=ORDER,
        trend=f"rank correlation with strength {rho:+.2f} over {steps} strengths" if told else "",
        limitation=limitation(change, twins),
        scale=float(np.abs(y).max()),
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


def _over_layers(
    hypothesis: Hypothesis,
    twins: Sequence[Twin],
    readings: Sequence[Estimate],
    missing: Sequence[str],
    change: Change,
    layers: Array,
) -> Findings:
    """A ladder with one number per layer on each rung: the statistic is the share of layers."""
    statistic, agreement, trend = share(layers, hypothesis.direction, "layer")
    low, high = (None if end is None else 100 * end for end in (change.low, change.high))
    before, after = twins[0][1].source.label, twins[0][2].source.label
    return Findings(
        seen=f"{hypothesis.noun} from {before} to {after}",
        size="in the median layer a change of",
        effect=Effect(
            f"{hypothesis.noun}, strongest against weakest, median layer", 100 * change.value, low, high, "%"
        ),
        statistic=statistic,
        agreement=agreement,
        needed=SHARE,
        trend=trend,
        limitation=limitation(change, twins),
        scale=100.0,
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


def _pairs(hypothesis: Hypothesis, evidence: StudyData) -> Findings:
    """Every run with AWP against its twin without: the same objective, strength and seed.

    Raises:
        Unusable: no run with AWP, or no pair of which both runs were measured.
    """
    planned = evidence.pairs()
    if not planned:
        raise Unusable("the study has no adversarially trained run with AWP")
    missing = [f"{awp.name} has no twin without AWP" for awp, plain in planned if plain is None]
    members = [source for awp, plain in planned if plain is not None for source in (plain, awp)]
    readings, unread = read(hypothesis.measure, members)
    missing += unread
    at = {id(reading.source): reading for reading in readings}
    twins = [
        (awp.seed, at[id(plain)], at[id(awp)])
        for awp, plain in planned
        if plain is not None and id(plain) in at and id(awp) in at
    ]
    if not twins:
        raise Unusable(listed(missing))
    change = effect(twins, evidence)
    differences = np.array([float(after.value - before.value) for _, before, after in twins])
    statistic, agreement, trend = share(differences, hypothesis.direction, "pair")
    return Findings(
        seen=describe_change(hypothesis.noun, twins),
        size="a change of",
        effect=Effect(
            f"{hypothesis.noun}, with AWP minus without",
            change.value,
            change.low,
            change.high,
            hypothesis.unit,
        ),
        statistic=statistic,
        agreement=agreement if len(twins) >= 3 else None,
        needed=SHARE,
        trend=trend if len(twins) > 1 else "",
        limitation=limitation(change, twins),
        scale=max(float(np.abs(reading.value)) for reading in readings),
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


STRENGTH_SWEEP = Design(_ladder, StudyData.settings)
"""Over the strengths of training, in every setting."""
PAIRS = Design(_pairs, StudyData.checkpoints)
"""With AWP against without, at every checkpoint."""
