"""Designs that correlate two quantities: over methods, or along the training of each run."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.estimates import Estimate, Estimator, estimate, lacking, listed
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, SensitivityCheck, checkpoints
from robustlens.claims.missing import Missing, Unranked
from robustlens.claims.pairs import share
from robustlens.claims.verdict import ORDER, Consistency, Findings
from robustlens.results import ClaimValue, Effect, Statistic
from robustlens.stats.bootstrap import Array, Bootstrap, Unusable
from robustlens.stats.intervals import TAIL, Inference
from robustlens.stats.ranks import (
    LEAST_POINTS,
    interval_of_mean_correlation,
    spearman,
    spearman_interval,
    spearman_of_rows,
    spearman_p,
)

Member = TypeVar("Member")


def across_methods(
    against: Estimator, noun: str, parts: Callable[[StudyData], Sequence[StudyData]] = checkpoints
) -> Design:
    """Correlation of a quantity with `against`, which `noun` names, over all adversarially trained methods.

    The unit is a method at a strength, averaged over its seeds: seeds of one method are no new methods. The
    hypothesis's sensitivity checks take the place of `against` in second looks.
    """

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        points, missing = points_of(hypothesis.estimator, against, study.adversarial())
        methods = _by_method(points, lambda point: point.run)
        if len(methods) < LEAST_POINTS:
            reasons = f"; {listed(missing)}" if missing else ""
            planned = len(_by_method(study.adversarial(), lambda run: run))
            raise lacking(
                f"needs at least {LEAST_POINTS} adversarially trained methods or strengths, "
                f"found {len(methods)}{reasons}",
                missing,
                remedies.methods() if planned < LEAST_POINTS else "",
            )
        x, y = np.array([np.mean([point.values for point in own], axis=0) for own in methods]).T
        rho = spearman(x, y)
        if rho is None:
            raise Unusable(
                f"{hypothesis.noun} or {noun} is the same in all {len(methods)} methods; nothing to correlate"
            )
        p = spearman_p(x, y, np.zeros(len(x), dtype=np.int64), study.bootstrap.generator("spearman"))
        several = len({point.run.eps for point in points}) > 1
        return _findings(
            f"{noun} and {hypothesis.noun}",
            points,
            missing,
            interval=replace(interval := spearman_interval(rho, len(x)), p=max(p, interval.p or 0.0)),
            replicates=_fewest_seeds(methods, lambda point: point.run),
            consistency=Consistency(
                Statistic(f"Spearman over {len(methods)} methods", rho, p=p),
                agreement=hypothesis.direction * rho,
                needed=ORDER,
                words=f"permutation p {p:.2g}",
            ),
            where=f"over {len(methods)} adversarially trained methods",
            size="a rank correlation of",
            notes=(
                "the interval is over methods and strengths, not over examples or training randomness",
                _resampled_across(methods, study.bootstrap),
                "methods trained at different strengths are pooled" if several else "",
                *(_second_look(check, hypothesis, study, rho) for check in hypothesis.checks(study)),
            ),
        )

    return Design(findings, parts, reads=(against,))


def along_training(against: Estimator, noun: str) -> Design:
    """Correlation of a quantity with `against`, which `noun` names, over the epochs of each run.

    The effect is the mean over runs. Methods are the units, each the mean over its seeds; below three of them
    runs are, and the note says so.
    """

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        runs, missing = _ranked_runs(hypothesis.estimator, against, study)
        if not runs:
            reasons = f"; {listed(missing)}" if missing else ""
            raise lacking(
                f"needs an adversarially trained run that was measured at {LEAST_POINTS} epochs or more "
                f"(keep_every, checkpoint: every) and changes{reasons}",
                missing,
            )
        methods = _by_method(runs, lambda own: own[0].run)
        unit, units = ("method", methods) if len(methods) >= 3 else ("run", [[own] for own in runs])
        rhos = np.array([np.mean([_rho(own) for own in together]) for together in units])
        fewest, most = (end(len(own) for own in runs) for end in (min, max))
        epochs = str(fewest) if fewest == most else f"{fewest} to {most}"
        return _findings(
            f"{noun} and {hypothesis.noun}",
            [point for own in runs for point in own],
            missing,
            interval=(
                spearman_interval(float(rhos[0]), fewest)
                if len(rhos) == 1
                else interval_of_mean_correlation(rhos, fewest, runs=len(runs))
            ),
            replicates=_fewest_seeds(methods, lambda own: own[0].run),
            consistency=share(rhos, hypothesis.direction, unit, least=3, ways=("is negative", "is positive")),
            where=f"along the training of {len(runs)} run{'s' * (len(runs) > 1)}, at {epochs} epochs each",
            size="a mean rank correlation of",
            notes=(
                f"the interval is over {unit}s" if len(rhos) > 1 else "the interval is over epochs",
                _resampled_along(methods, study.bootstrap),
                "both quantities also grow with time alone, so this is weaker evidence than a correlation "
                "across methods",
            ),
        )

    return Design(findings)


def _second_look(check: SensitivityCheck, hypothesis: Hypothesis, study: StudyData, seen: float) -> str:
    """The correlation with another quantity in place of the claim's own, over the methods that have it."""
    try:
        points, _ = points_of(hypothesis.estimator, check.estimator, study.adversarial())
    except Unusable as reason:
        return f"second look: {check.noun}: {reason}"
    methods = _by_method(points, lambda point: point.run)
    if len(methods) < LEAST_POINTS:
        return f"second look: {check.noun}: measured in {len(methods)} methods only"
    x, y = np.array([np.mean([point.values for point in own], axis=0) for own in methods]).T
    rho = spearman(x, y)
    if rho is None:
        return f"second look: {check.noun}: nothing to correlate"
    way = " goes the other way," if rho * seen < 0 else ":"
    return f"second look: {check.noun}{way} {rho:+.2f} over {len(methods)} methods"


@dataclass(frozen=True)
class Point:
    """Two quantities of one run at one checkpoint."""

    x: Estimate
    y: Estimate

    @property
    def run(self) -> RunData:
        """Of which both are."""
        return self.y.run

    @property
    def values(self) -> tuple[float, float]:
        """Both numbers."""
        return float(self.x.value), float(self.y.value)

    def claim_value(self) -> ClaimValue:
        """Entry of the claim's `values`."""
        return self.y.claim_value(against=float(self.x.value))


def _findings(
    nouns: str,
    points: Sequence[Point],
    missing: Sequence[Missing],
    *,
    interval: Inference,
    replicates: int,
    consistency: Consistency,
    where: str,
    size: str,
    notes: Sequence[str],
) -> Findings:
    """Findings of a correlation of the quantities that `nouns` names, with its interval."""
    reasons = f"missing: {listed(missing)}" if missing else ""
    return Findings(
        seen=f"{nouns} {where}",
        size=size,
        effect=Effect(f"Spearman of {nouns}", interval.value, interval.low, interval.high, p=interval.p),
        consistency=consistency,
        values=tuple(point.claim_value() for point in points),
        seeds=len({point.run.entry.seed for point in points}),
        replicates=replicates,
        note="; ".join(part for part in (*notes, reasons) if part),
    )


def points_of(
    estimator: Estimator, against: Estimator, runs: Sequence[RunData]
) -> tuple[list[Point], list[Missing]]:
    """Both quantities of every run that has both, and a reason for each run that has not."""
    estimates, missing = estimate(estimator, runs)
    others, unmeasured = estimate(against, [one.run for one in estimates])
    x_of = {one.run: one for one in others}
    return [Point(x_of[y.run], y) for y in estimates if y.run in x_of], missing + unmeasured


def _ranked_runs(
    estimator: Estimator, against: Estimator, study: StudyData
) -> tuple[list[list[Point]], list[Missing]]:
    """The points of every run that has enough of them, with something to rank."""
    runs: list[list[Point]] = []
    missing: list[Missing] = []
    for run in study.adversarial():
        try:
            points, unmeasured = points_of(estimator, against, run.along_training())
        except Missing as reason:
            missing.append(reason)
            continue
        missing += unmeasured
        if len(points) < LEAST_POINTS:
            few = f"{run.name} was measured at {len(points)} epochs"
            missing.append(Missing(few, remedies.along_training(study.record)))
        elif np.isnan(_rho(points)):
            missing.append(Unranked(f"{run.name} is the same at all epochs; nothing to correlate"))
        else:
            runs.append(points)
    return runs, missing


def _rho(points: Sequence[Point]) -> float:
    """The rank correlation over `points`; NaN where there is nothing to rank."""
    x, y = np.array([point.values for point in points]).T
    return float(spearman_of_rows(x[None], y[None])[0])


def _by_method(members: Iterable[Member], run_of: Callable[[Member], RunData]) -> list[list[Member]]:
    """The members of each method and strength."""
    groups: dict[tuple[str, str, float, str | None], list[Member]] = defaultdict(list)
    for member in members:
        run = run_of(member)
        groups[run.entry.method, run.entry.objective, run.eps, run.entry.perturbation].append(member)
    return list(groups.values())


def _fewest_seeds(methods: Iterable[Sequence[Member]], run_of: Callable[[Member], RunData]) -> int:
    """The least number of training seeds that one of the methods has."""
    return min(len({run_of(member).entry.seed for member in own}) for own in methods)


# -- the bootstrap over methods, seeds and examples, all drawn anew together ---------------------------


def _resampled_across(methods: Sequence[Sequence[Point]], bootstrap: Bootstrap) -> str:
    """Bootstrap of the correlation over methods, of the means over their seeds."""
    generator = bootstrap.generator("methods")
    means = [_drawn(_draws(own, bootstrap), generator).mean(-1) for own in methods]
    return _percentiles(spearman_of_rows(*_drawn(np.stack(means, -1), generator)))


def _resampled_along(methods: Sequence[Sequence[Sequence[Point]]], bootstrap: Bootstrap) -> str:
    """Bootstrap of the mean over methods, and over their runs, of the correlation over epochs."""
    generator = bootstrap.generator("methods")
    rhos = [np.stack([spearman_of_rows(*_draws(run, bootstrap)) for run in own], -1) for own in methods]
    means = [_drawn(of_runs, generator).mean(-1) for of_runs in rhos]
    return _percentiles(_drawn(np.stack(means, -1), generator).mean(-1))


def _draws(points: Sequence[Point], bootstrap: Bootstrap) -> Array:
    """Both quantities of each point on every resample of the examples: (2, resamples, points)."""
    columns = [[bootstrap.draws(side.quantity) for side in (point.x, point.y)] for point in points]
    return np.array(columns).transpose(1, 2, 0)


def _drawn(values: Array, generator: np.random.Generator) -> Array:
    """As many of the last axis of `values` (..., resamples, k), drawn anew in each resample."""
    chosen = generator.integers(values.shape[-1], size=values.shape[-2:])
    return np.take_along_axis(values, np.broadcast_to(chosen, values.shape), axis=-1)


def _percentiles(draws: Array) -> str:
    """The 95 % interval of draws, in words; resamples that leave nothing to rank are passed over."""
    low, high = np.nanquantile(draws, [TAIL, 1 - TAIL])
    return f"a bootstrap over methods, seeds and examples gives {low:+.2f} to {high:+.2f}"
