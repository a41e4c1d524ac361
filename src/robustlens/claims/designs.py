"""How a claim is put to a study: over a ladder of strengths, over pairs with and without AWP, or as a link.

A design gathers the runs it needs, reads one quantity of each, and returns `Findings`. It knows the direction
that a paper claims only to express agreement; the verdict is `findings.decide`'s.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robustlens.claims import statistics as st
from robustlens.claims.evidence import Evidence, Measure, Reading, listed, read
from robustlens.claims.findings import ORDER, SHARE, Claim, Effect, Findings, Statistic, Unusable, decide
from robustlens.claims.statistics import Array
from robustlens.claims.twins import Also, Change, Twin, effect, note, obstacle, share, went


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
        design: `ladder`, `pairs` or `association(...)`.
        also: second looks, for the note.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    noun: str
    unit: str
    measure: Measure
    direction: Literal[-1, 1]
    design: Callable[["Hypothesis", Evidence], Findings]
    also: tuple[Also, ...] = ()

    def check(self, evidence: Evidence) -> Claim:
        """The claim on this evidence; whatever is lacking makes it inconclusive, and `why` says what."""
        claim = Claim(self.id, self.paper, self.statement, self.quantity, setting=evidence.setting)
        try:
            found = self.design(self, evidence)
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


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# -- designs -------------------------------------------------------------------------------------------


def ladder(hypothesis: Hypothesis, evidence: Evidence) -> Findings:
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
        seen=went(hypothesis.noun, twins),
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
        obstacle=obstacle(change, twins),
        scale=float(np.abs(y).max()),
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


def _over_layers(
    hypothesis: Hypothesis,
    twins: Sequence[Twin],
    readings: Sequence[Reading],
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
        obstacle=obstacle(change, twins),
        scale=100.0,
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


def pairs(hypothesis: Hypothesis, evidence: Evidence) -> Findings:
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
        seen=went(hypothesis.noun, twins),
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
        obstacle=obstacle(change, twins),
        scale=max(float(np.abs(reading.value)) for reading in readings),
        values=tuple(reading.entry() for reading in readings),
        seeds=change.seeds,
        note=note(twins, hypothesis.also, missing, hypothesis.direction * change.value),
    )


def association(against: Measure, noun: str) -> Callable[[Hypothesis, Evidence], Findings]:
    """The design that asks whether a quantity goes with `against`, over all adversarially trained methods.

    The unit is a method at a strength, averaged over its seeds: seeds of one method are no new methods.
    """

    def design(hypothesis: Hypothesis, evidence: Evidence) -> Findings:
        readings, missing = read(hypothesis.measure, evidence.adversarial())
        others, unread = read(against, [reading.source for reading in readings])
        x_of = {id(reading.source): float(reading.value) for reading in others}
        both = [reading for reading in readings if id(reading.source) in x_of]
        units: dict[tuple[str, str, float, bool], list[tuple[float, float]]] = defaultdict(list)
        for reading in both:
            source = reading.source
            method = str(source.run.entry.get("method", ""))
            point = (x_of[id(source)], float(reading.value))
            units[method, source.objective, source.eps, source.awp].append(point)
        missing += unread
        if len(units) < 4:
            lacking = f"; {listed(missing)}" if missing else ""
            found = f"found {len(units)}{lacking}"
            raise Unusable(f"needs at least 4 adversarially trained methods or strengths, {found}")
        x, y = np.array([np.mean(points, axis=0) for points in units.values()]).T
        rho = st.spearman(x, y)
        if rho is None:
            raise Unusable(
                f"{hypothesis.noun} or {noun} is the same in all {len(units)} methods; nothing to correlate"
            )
        p = st.spearman_p(x, y, np.zeros(len(x), dtype=np.int64), evidence.bootstrap.generator("spearman"))
        spread = st.spearman_interval(rho, len(x))
        strengths = {reading.source.eps for reading in both}
        notes = [
            "the interval is over methods and strengths, not over examples or training randomness",
            "methods trained at different strengths are pooled" if len(strengths) > 1 else "",
            f"missing: {listed(missing)}" if missing else "",
        ]
        return Findings(
            seen=f"{noun} and {hypothesis.noun} over {len(units)} adversarially trained methods",
            size="a rank correlation of",
            effect=Effect(f"Spearman of {noun} and {hypothesis.noun}", spread.value, spread.low, spread.high),
            statistic=Statistic(f"Spearman over {len(units)} methods", rho, p=p),
            agreement=hypothesis.direction * rho,
            needed=ORDER,
            trend=f"permutation p {p:.2g}",
            obstacle="",
            scale=1.0,
            values=tuple({**reading.entry(), "against": x_of[id(reading.source)]} for reading in both),
            seeds=len({reading.source.seed for reading in both}),
            note="; ".join(part for part in notes if part),
        )

    return design
