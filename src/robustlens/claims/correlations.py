"""Whether two quantities go together: over methods, or along the training of each run."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from robustlens.claims.designs import Design, Hypothesis
from robustlens.claims.evidence import Estimate, Estimator, RunData, StudyData, listed, read
from robustlens.claims.pairs import share
from robustlens.claims.verdict import ORDER, SHARE, Effect, Findings, Missing, Statistic, Unusable
from robustlens.stats import bootstrap as st
from robustlens.stats.bootstrap import Array, Bootstrap, Interval

Member = TypeVar("Member")

LEAST = 4
"""Below so many methods, or epochs, ranks say next to nothing."""


def across_methods(against: Estimator, noun: str) -> Design:
    """Whether a quantity goes with `against`, over all adversarially trained methods.

    The unit is a method at a strength, averaged over its seeds: seeds of one method are no new methods.
    """

    def findings(hypothesis: Hypothesis, evidence: StudyData) -> Findings:
        points, missing = _points(hypothesis.measure, against, evidence.adversarial())
        methods = _by_method(points, lambda point: point.source)
        if len(methods) < LEAST:
            lacking = f"; {listed(missing)}" if missing else ""
            found = f"found {len(methods)}{lacking}"
            raise Unusable(f"needs at least {LEAST} adversarially trained methods or strengths, {found}")
        x, y = np.array([np.mean([point.values for point in own], axis=0) for own in methods]).T
        rho = st.spearman(x, y)
        if rho is None:
            raise Unusable(
                f"{hypothesis.noun} or {noun} is the same in all {len(methods)} methods; nothing to correlate"
            )
        p = st.spearman_p(x, y, np.zeros(len(x), dtype=np.int64), evidence.bootstrap.generator("spearman"))
        several = len({point.source.eps for point in points}) > 1
        told = _Told(
            seen=f"{noun} and {hypothesis.noun} over {len(methods)} adversarially trained methods",
            size="a rank correlation of",
            trend=f"permutation p {p:.2g}",
            notes=(
                "the interval is over methods and strengths, not over examples or training randomness",
                _resampled_across(methods, evidence.bootstrap),
                "methods trained at different strengths are pooled" if several else "",
            ),
        )
        statistic = Statistic(f"Spearman over {len(methods)} methods", rho, p=p)
        spread = st.spearman_interval(rho, len(x))
        return _findings(
            hypothesis, noun, points, missing, spread, statistic, hypothesis.direction * rho, told
        )

    return Design(findings, StudyData.checkpoints, reads=(against,))


def along_training(against: Estimator, noun: str) -> Design:
    """Whether a quantity goes with `against` over the epochs of a run: one rank correlation for each run.

    The effect is their mean. Methods are the units, each the mean over its seeds; below three of them runs
    are, and the note says so.
    """

    def findings(hypothesis: Hypothesis, evidence: StudyData) -> Findings:
        runs, missing = _runs(hypothesis.measure, against, evidence)
        if not runs:
            lacking = f"; {listed(missing)}" if missing else ""
            raise Unusable(
                f"needs an adversarially trained run that was measured at {LEAST} epochs or more "
                f"(keep_every, checkpoint: every) and changes{lacking}"
            )
        methods = _by_method(runs, lambda own: own[0].source)
        unit, units = ("method", methods) if len(methods) >= 3 else ("run", [[own] for own in runs])
        rhos = np.array([np.mean([_rho(own) for own in together]) for together in units])
        fewest, most = (end(len(own) for own in runs) for end in (min, max))
        spread = (
            st.spearman_interval(float(rhos[0]), fewest)
            if len(rhos) == 1
            else st.interval_of_mean_correlation(rhos, fewest, of=len(runs))
        )
        ways = ("is negative", "is positive")
        statistic, agreement, trend = share(rhos, hypothesis.direction, unit, ways)
        epochs = str(fewest) if fewest == most else f"{fewest} to {most}"
        told = _Told(
            seen=f"{noun} and {hypothesis.noun} along the training of {len(runs)} "
            f"run{'s' * (len(runs) > 1)}, at {epochs} epochs each",
            size="a mean rank correlation of",
            trend=trend,
            notes=(
                f"the interval is over {unit}s" if len(rhos) > 1 else "the interval is over epochs",
                _resampled_along(methods, evidence.bootstrap),
                "both quantities also grow with time alone, so this is weaker evidence than a correlation "
                "across methods",
            ),
        )
        points = [point for own in runs for point in own]
        enough = agreement if len(rhos) >= 3 else None
        return _findings(hypothesis, noun, points, missing, spread, statistic, enough, told, needed=SHARE)

    return Design(findings)


@dataclass(frozen=True)
class _Point:
    """Two quantities of one run at one checkpoint."""

    x: Estimate
    y: Estimate

    @property
    def source(self) -> RunData:
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
        limitation="",
        scale=1.0,
        values=tuple(point.entry() for point in points),
        seeds=len({point.source.seed for point in points}),
        note="; ".join(part for part in (*told.notes, lacking) if part),
    )


def _points(
    measure: Estimator, against: Estimator, sources: Sequence[RunData]
) -> tuple[list[_Point], list[str]]:
    """Both quantities of every source that has both, and what is missing of the others."""
    readings, missing = read(measure, sources)
    others, unread = read(against, [reading.source for reading in readings])
    x_of = {id(reading.source): reading for reading in others}
    both = [_Point(x_of[id(y.source)], y) for y in readings if id(y.source) in x_of]
    return both, missing + unread


def _runs(
    measure: Estimator, against: Estimator, evidence: StudyData
) -> tuple[list[list[_Point]], list[str]]:
    """The points of every run that has enough of them, with something to rank."""
    runs, missing = [], []
    for source in evidence.adversarial():
        try:
            points, unread = _points(measure, against, list(source.along().values()))
        except Missing as reason:
            missing.append(str(reason))
            continue
        missing += unread
        if len(points) < LEAST:
            missing.append(f"{source.name} was measured at {len(points)} epochs")
            continue
        if np.isnan(_rho(points)):
            missing.append(f"{source.name} is the same at all epochs; nothing to correlate")
            continue
        runs.append(points)
    return runs, missing


def _rho(points: Sequence[_Point]) -> float:
    """The rank correlation over `points`; NaN where there is nothing to rank."""
    x, y = np.array([point.values for point in points]).T
    return float(st.spearman_of_rows(x[None], y[None])[0])


def _by_method(members: Iterable[Member], source_of: Callable[[Member], RunData]) -> list[list[Member]]:
    """The members of each method and strength."""
    found: dict[tuple[str, str, float, bool], list[Member]] = defaultdict(list)
    for member in members:
        source = source_of(member)
        method = str(source.run.entry.get("method", ""))
        found[method, source.objective, source.eps, source.awp].append(member)
    return list(found.values())


# -- the bootstrap over methods, seeds and examples, all drawn anew together ---------------------------


def _resampled_across(methods: Sequence[Sequence[_Point]], bootstrap: Bootstrap) -> str:
    """The correlation over methods of what each has on average over its seeds."""
    generator = bootstrap.generator("methods")
    means = [_drawn(_draws(own, bootstrap), generator).mean(-1) for own in methods]
    return _percentiles(st.spearman_of_rows(*_drawn(np.stack(means, -1), generator)))


def _resampled_along(methods: Sequence[Sequence[Sequence[_Point]]], bootstrap: Bootstrap) -> str:
    """The mean over methods, and over their runs, of the correlation over epochs."""
    generator = bootstrap.generator("methods")
    rhos = [np.stack([st.spearman_of_rows(*_draws(run, bootstrap)) for run in own], -1) for own in methods]
    means = [_drawn(of_runs, generator).mean(-1) for of_runs in rhos]
    return _percentiles(_drawn(np.stack(means, -1), generator).mean(-1))


def _draws(points: Sequence[_Point], bootstrap: Bootstrap) -> Array:
    """Both quantities of each point on every resample of the examples: (2, resamples, points)."""
    columns = [[bootstrap.draws(side.quantity) for side in (point.x, point.y)] for point in points]
    return np.array(columns).transpose(1, 2, 0)


def _drawn(values: Array, generator: np.random.Generator) -> Array:
    """As many of the last axis of `values` (..., resamples, k), drawn anew in each resample."""
    chosen = generator.integers(values.shape[-1], size=values.shape[-2:])
    return np.take_along_axis(values, np.broadcast_to(chosen, values.shape), axis=-1)


def _percentiles(draws: Array) -> str:
    """In words; resamples that leave nothing to rank are passed over."""
    low, high = np.nanquantile(draws, [(1 - st.LEVEL) / 2, (1 + st.LEVEL) / 2])
    return f"a bootstrap over methods, seeds and examples gives {low:+.2f} to {high:+.2f}"
