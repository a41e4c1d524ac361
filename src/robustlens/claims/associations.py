"""Whether two quantities go together: over methods, or along the training of each run."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustlens.claims import statistics as st
from robustlens.claims.designs import Design, Hypothesis
from robustlens.claims.evidence import Evidence, Measure, Reading, Source, listed, read
from robustlens.claims.findings import ORDER, SHARE, Effect, Findings, Missing, Statistic, Unusable
from robustlens.claims.statistics import Array, Bootstrap, Interval
from robustlens.claims.twins import share

LEAST = 4
"""Below so many methods, or epochs, ranks say next to nothing."""


def across_methods(against: Measure, noun: str) -> Design:
    """Whether a quantity goes with `against`, over all adversarially trained methods.

    The unit is a method at a strength, averaged over its seeds: seeds of one method are no new methods.
    """

    def findings(hypothesis: Hypothesis, evidence: Evidence) -> Findings:
        points, missing = _points(hypothesis.measure, against, evidence.adversarial())
        methods: dict[tuple[str, str, float, bool], list[_Point]] = defaultdict(list)
        for point in points:
            source = point.source
            method = str(source.run.entry.get("method", ""))
            methods[method, source.objective, source.eps, source.awp].append(point)
        if len(methods) < LEAST:
            lacking = f"; {listed(missing)}" if missing else ""
            found = f"found {len(methods)}{lacking}"
            raise Unusable(f"needs at least {LEAST} adversarially trained methods or strengths, {found}")
        x, y = np.array([np.mean([point.values for point in own], axis=0) for own in methods.values()]).T
        rho = st.spearman(x, y)
        if rho is None:
            raise Unusable(
                f"{hypothesis.noun} or {noun} is the same in all {len(methods)} methods; nothing to correlate"
            )
        p = st.spearman_p(x, y, np.zeros(len(x), dtype=np.int64), evidence.bootstrap.generator("spearman"))
        low, high = _resampled(list(methods.values()), evidence.bootstrap)
        several = len({point.source.eps for point in points}) > 1
        told = _Told(
            seen=f"{noun} and {hypothesis.noun} over {len(methods)} adversarially trained methods",
            size="a rank correlation of",
            trend=f"permutation p {p:.2g}",
            notes=(
                "the interval is over methods and strengths, not over examples or training randomness",
                f"a bootstrap over methods, seeds and examples gives {low:+.2f} to {high:+.2f}",
                "methods trained at different strengths are pooled" if several else "",
            ),
        )
        statistic = Statistic(f"Spearman over {len(methods)} methods", rho, p=p)
        spread = st.spearman_interval(rho, len(x))
        return _findings(
            hypothesis, noun, points, missing, spread, statistic, hypothesis.direction * rho, told
        )

    return Design(findings, Evidence.checkpoints)


def along_training(against: Measure, noun: str) -> Design:
    """Whether a quantity goes with `against` over the epochs of a run: one rank correlation for each run.

    The effect is their mean. Its interval is a bootstrap over runs and examples; with a single run it holds
    the one over epochs and the one over examples.
    """

    def findings(hypothesis: Hypothesis, evidence: Evidence) -> Findings:
        runs, missing = _runs(hypothesis.measure, against, evidence)
        if not runs:
            lacking = f"; {listed(missing)}" if missing else ""
            raise Unusable(
                f"needs an adversarially trained run that was measured at {LEAST} epochs or more "
                f"(keep_every, checkpoint: every) and changes{lacking}"
            )
        rhos = np.array([st.spearman(*np.array([point.values for point in own]).T) for own in runs], float)
        draws = np.array([_rows(own, evidence.bootstrap) for own in runs])
        alone = len(runs) == 1
        if alone:
            over_epochs = st.spearman_interval(float(rhos[0]), len(runs[0]))
            spread = st.hull(over_epochs, st.interval_over_examples(float(rhos[0]), draws[0]))
        else:
            generator = evidence.bootstrap.generator("runs")
            spread = st.interval_over_seeds(rhos, draws, st.identity, generator)
        ways = ("is negative", "is positive")
        statistic, agreement, trend = share(rhos, hypothesis.direction, "run", ways)
        epochs = sorted({len(own) for own in runs})
        counted = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        told = _Told(
            seen=f"{noun} and {hypothesis.noun} along the training of {len(runs)} run{'s' * (not alone)}, "
            f"at {counted} epochs each",
            size="a mean rank correlation of",
            trend=trend,
            notes=(
                "the interval is over epochs, and over examples"
                if alone
                else "the interval is over runs and examples; runs of one method count apart",
            ),
        )
        points = [point for own in runs for point in own]
        enough = agreement if len(runs) >= 3 else None
        return _findings(hypothesis, noun, points, missing, spread, statistic, enough, told, needed=SHARE)

    return Design(findings)


@dataclass(frozen=True)
class _Point:
    """Two quantities of one run at one checkpoint."""

    x: Reading
    y: Reading

    @property
    def source(self) -> Source:
        return self.y.source

    @property
    def values(self) -> tuple[float, float]:
        return float(self.x.value), float(self.y.value)

    def entry(self) -> dict[str, Any]:
        """For `values` of the claim."""
        return {**self.y.entry(), "against": float(self.x.value)}


@dataclass(frozen=True)
class _Told:
    """The words of a finding."""

    seen: str
    size: str
    trend: str
    notes: tuple[str, ...]


def _findings(
    hypothesis: Hypothesis,
    noun: str,
    points: Sequence[_Point],
    missing: Sequence[str],
    spread: Interval,
    statistic: Statistic,
    agreement: float | None,
    told: _Told,
    needed: float = ORDER,
) -> Findings:
    """What both designs make of a correlation and its interval."""
    lacking = f"missing: {listed(missing)}" if missing else ""
    return Findings(
        seen=told.seen,
        size=told.size,
        effect=Effect(f"Spearman of {noun} and {hypothesis.noun}", spread.value, spread.low, spread.high),
        statistic=statistic,
        agreement=agreement,
        needed=needed,
        trend=told.trend,
        obstacle="",
        scale=1.0,
        values=tuple(point.entry() for point in points),
        seeds=len({point.source.seed for point in points}),
        note="; ".join(part for part in (*told.notes, lacking) if part),
    )


def _points(measure: Measure, against: Measure, sources: Sequence[Source]) -> tuple[list[_Point], list[str]]:
    """Both quantities of every source that has both, and what is missing of the others."""
    readings, missing = read(measure, sources)
    others, unread = read(against, [reading.source for reading in readings])
    x_of = {id(reading.source): reading for reading in others}
    both = [_Point(x_of[id(y.source)], y) for y in readings if id(y.source) in x_of]
    return both, missing + unread


def _runs(measure: Measure, against: Measure, evidence: Evidence) -> tuple[list[list[_Point]], list[str]]:
    """The points of every run that has enough of them, with something to rank."""
    runs, missing = [], []
    for source in evidence.adversarial():
        try:
            points, unread = _points(measure, against, list(source.along().values()))
        except Missing as reason:
            points, unread = [], [str(reason)]
        missing += unread
        if len(points) < LEAST:
            continue
        if st.spearman(*np.array([point.values for point in points]).T) is None:
            missing.append(f"{source.name} is the same at all epochs; nothing to correlate")
            continue
        runs.append(points)
    return runs, missing


def _draws(points: Sequence[_Point], bootstrap: Bootstrap) -> Array:
    """Both quantities of each point on every resample of the examples: (2, resamples, points)."""
    columns = [[bootstrap.draws(side.quantity) for side in (point.x, point.y)] for point in points]
    return np.array(columns).transpose(1, 2, 0)


def _rows(points: Sequence[_Point], bootstrap: Bootstrap) -> Array:
    """The rank correlation over `points` on every resample of the examples."""
    return st.spearman_of_rows(*_draws(points, bootstrap))


def _resampled(methods: Sequence[Sequence[_Point]], bootstrap: Bootstrap) -> tuple[float, float]:
    """Percentile interval of the rank correlation: methods, their seeds and the examples drawn anew."""
    generator, size = bootstrap.generator("methods"), bootstrap.resamples
    each = np.arange(size)[:, None]
    means = []
    for own in methods:
        seeds = generator.integers(len(own), size=(size, len(own)))
        means.append(_draws(own, bootstrap)[:, each, seeds].mean(2))
    chosen = generator.integers(len(methods), size=(size, len(methods)))
    x, y = np.stack(means, axis=2)[:, each, chosen]
    found = st.spearman_of_rows(x, y)
    low, high = np.nanquantile(found, [(1 - st.LEVEL) / 2, (1 + st.LEVEL) / 2])
    return float(low), float(high)
