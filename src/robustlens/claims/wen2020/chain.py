"""The chain that Wen et al. draw, link by link, across networks that were trained alike but for the seed.

Less variance of singular values, so less of activations; so margins concentrate; so the loss gap is smaller.
Every quantity moves with strength, so over strengths each goes with every other; at a fixed strength they
need not.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustlens.claims import remedies
from robustlens.claims.correlations import Point, points_of
from robustlens.claims.estimates import Estimator, lacking, listed
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, checkpoints
from robustlens.claims.missing import Missing
from robustlens.claims.verdict import ORDER, Consistency, Findings
from robustlens.claims.wen2020 import activations, quantities
from robustlens.results import Effect, Statistic
from robustlens.stats.bootstrap import Array, Quantity, Unusable
from robustlens.stats.ranks import (
    LEAST_POINTS,
    partial_spearman,
    partial_spearman_interval,
    partial_spearman_p,
)


def over_layers(estimator: Estimator) -> Estimator:
    """The geometric mean over layers of a quantity with one number per layer, whatever the layers' scales."""

    def of_run(run: RunData) -> Quantity:
        quantity = estimator(run)

        def of(*weights: Array) -> Array:
            with np.errstate(divide="ignore"):
                return np.exp(np.log(quantity.function(*weights)).mean(-1))

        # Runs of several settings have layers of their own: they are ranked among themselves.
        return replace(quantity, function=of, layers=())

    return of_run


def within_strengths(against: Estimator, noun: str) -> Design:
    """Rank correlation of a quantity with `against`, which `noun` names, among networks trained alike.

    A stratum is a method at a strength in a setting; its networks differ in the seed alone. The ranks are
    those within strata, and so are the permutations.
    """

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        every, missing = points_of(hypothesis.estimator, against, study.runs)
        strata = _strata(every, _alike)
        points = [point for own in strata for point in own]
        if len(points) - (len(strata) - 1) < LEAST_POINTS:
            raise _too_few(points, len(strata), missing, study)
        ranked = _correlated(strata)
        if ranked is None:
            raise Unusable(f"{hypothesis.noun} or {noun} is the same in all networks that were trained alike")
        x, y, groups, rho = ranked
        p = partial_spearman_p(x, y, groups, study.bootstrap.generator("strata"))
        interval = partial_spearman_interval(rho, len(points), len(strata))
        where = f"{len(points)} networks of {len(strata)} method{'s' * (len(strata) > 1)} and strengths"
        nouns = f"{noun} and {hypothesis.noun}"
        ends = interval.value, interval.low, interval.high
        return Findings(
            seen=f"{nouns} over {where}, ranked within each",
            size="a partial rank correlation of",
            effect=Effect(f"partial Spearman of {nouns}", *ends, p=max(p, interval.p or 0.0)),
            consistency=Consistency(
                Statistic(f"partial Spearman over {where}", rho, p=p),
                agreement=hypothesis.direction * rho,
                needed=ORDER,
                words=f"permutation p {p:.2g}",
            ),
            values=tuple(point.claim_value() for point in points),
            seeds=len({point.run.entry.seed for point in points}),
            replicates=min(len(own) for own in strata),
            note=_note(every, missing, len(strata), rho),
        )

    return Design(findings, checkpoints, reads=(against,))


def _alike(run: RunData) -> object:
    """What networks share that differ in their seed alone."""
    entry = run.entry
    return entry.setting, entry.method, entry.objective, run.eps, entry.perturbation


def _as_strong(run: RunData) -> object:
    """What networks of one strength share, whatever their method."""
    return run.entry.setting, run.eps


def _strata(points: Sequence[Point], shared: Callable[[RunData], object]) -> list[list[Point]]:
    """The points of runs that share something, where there are two or more."""
    strata: dict[object, list[Point]] = defaultdict(list)
    for point in points:
        strata[shared(point.run)].append(point)
    return [own for own in strata.values() if len(own) > 1]


def _correlated(strata: Sequence[Sequence[Point]]) -> tuple[Array, Array, NDArray[np.int64], float] | None:
    """Both quantities, the stratum of each point, and the correlation; None where nothing is left to rank."""
    x, y = np.array([point.values for own in strata for point in own]).T
    groups = np.repeat(np.arange(len(strata)), [len(own) for own in strata])
    rho = partial_spearman(x, y, groups)
    return None if rho is None else (x, y, groups, rho)


def _too_few(points: Sequence[Point], strata: int, missing: Sequence[Missing], study: StudyData) -> Unusable:
    """The exception where too few networks differ in their seed alone; a remedy if no more were planned."""
    planned = [number for number in Counter(map(_alike, study.runs)).values() if number > 1]
    enough = sum(planned) - (len(planned) - 1) >= LEAST_POINTS
    reasons = f"; {listed(missing)}" if missing else ""
    return lacking(
        f"needs at least {LEAST_POINTS} networks that were trained alike but for the seed, and one more for "
        f"each further method and strength, found {len(points)} of {strata}{reasons}",
        missing,
        "" if enough else remedies.seeds(),
    )


def _note(every: Sequence[Point], missing: Sequence[Missing], strata: int, rho: float) -> str:
    """Coverage of the interval, how the quantities were measured, and a look beyond one method."""
    parts = [
        "the interval is over networks, and not over images",
        "what differs between methods and strengths alone has no part in it",
        *dict.fromkeys(side.quantity.caveat for point in every for side in (point.x, point.y)),
    ]
    wider = _strata(every, _as_strong)
    among = _correlated(wider) if len(wider) < strata else None
    if among is not None:
        way = " goes the other way," if among[3] * rho < 0 else ":"
        parts.append(f"second look: among all methods of a strength{way} {among[3]:+.2f}")
    if missing:
        parts.append(f"missing: {listed(missing)}")
    return "; ".join(part for part in parts if part)


_singular = over_layers(quantities.spectrum_spread)
_active = over_layers(activations.spread)
_SINGULAR = "geometric mean over layers of the std of singular values"
_ACTIVE = "geometric mean over layers of the std of the norms of post-activations on test images"
_NEAR = "share of test images whose probability margin is within 0.2 of zero"


def _link(
    name: str,
    statement: str,
    of: str,
    noun: str,
    estimator: Estimator,
    against: tuple[str, str, Estimator],
    direction: int,
) -> Hypothesis:
    other, other_noun, other_estimator = against
    return Hypothesis(
        id=name,
        paper="Wen et al. 2020",
        statement=statement,
        quantity=f"partial rank correlation, across networks of the same method and strength, of the {other} "
        f"and the {of}",
        noun=noun,
        estimator=estimator,
        direction=1 if direction > 0 else -1,
        design=within_strengths(other_estimator, other_noun),
    )


HYPOTHESES = (
    _link(
        "activations-follow-singular-values",
        "At a fixed strength, the less singular values vary in a network, the less its activations do.",
        _ACTIVE,
        "std of activation norms",
        _active,
        (_SINGULAR, "std of singular values", _singular),
        1,
    ),
    _link(
        "concentration-follows-activations",
        "At a fixed strength, the less activations vary in a network, the more its margins concentrate.",
        _NEAR,
        "share of images near the boundary",
        quantities.near_boundary,
        (_ACTIVE, "std of activation norms", _active),
        -1,
    ),
    _link(
        "loss-gap-follows-concentration",
        "At a fixed strength, the more margins concentrate in a network, the smaller its loss gap.",
        "test minus training cross entropy",
        "loss gap",
        quantities.loss_gap,
        (_NEAR, "share of images near the boundary", quantities.near_boundary),
        -1,
    ),
)
"""In the order of the chain."""
