"""Comparing runs two by two: the effect with its interval, and what has to be said beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustlens.claims.evidence import Estimate, Estimator, StudyData, listed, read
from robustlens.claims.verdict import Statistic, Unusable
from robustlens.stats import bootstrap as st
from robustlens.stats.bootstrap import Array

Twin = tuple[int, Estimate, Estimate]
"""A training seed, and two runs with that seed: without, and with, what is claimed to matter."""


@dataclass(frozen=True)
class Change:
    """The effect of what differs between twins; `layers` holds its relative size in each layer, if any."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    layers: Array | None = None


@dataclass(frozen=True)
class SensitivityCheck:
    """A second look at the same claim: reported in the note, no part of the verdict.

    Args:
        noun: short name of the quantity.
        measure: the quantity as a function of a run.
        direction: where it would go if it agreed.
        caution: what to think where it does not.
    """

    noun: str
    measure: Estimator
    direction: Literal[-1, 1]
    caution: str = ""


def effect(twins: Sequence[Twin], evidence: StudyData) -> Change:
    """Mean change over the pairs of a seed, then over seeds, with its 95 % interval.

    One seed: bootstrap over examples. Several: over seeds, then examples. One number per layer: layers have
    scales of their own, so their changes are relative and the median layer speaks for them; where there are
    no examples behind them (spectra), the layers are the units, by an exact sign test, and with several
    seeds the interval holds the one over seeds too.

    Raises:
        Unusable: the change is not finite, or resamples leave it undefined.
    """
    layered = bool(twins[0][1].quantity.layers)
    reduce = st.median if layered else st.identity
    values = _by_seed(twins, lambda reading: reading.value)
    if not np.isfinite(values).all():
        raise Unusable("the change is not finite: in some layer the quantity is zero at the weakest strength")
    seeds = len(values)
    if twins[0][1].quantity.examples:
        draws = _by_seed(twins, lambda reading: evidence.bootstrap.draws(reading.quantity))
        if seeds == 1:
            found = st.interval_over_examples(float(reduce(values)[0]), reduce(draws[0]))
        else:
            found = st.interval_over_seeds(values, draws, reduce, evidence.bootstrap.generator("seeds"))
    else:
        found = st.interval_of_median(values.mean(0))
        if seeds > 1:
            still = np.broadcast_to(values[:, None], (seeds, evidence.bootstrap.resamples, *values.shape[1:]))
            over_seeds = st.interval_over_seeds(values, still, reduce, evidence.bootstrap.generator("seeds"))
            found = st.hull(found, over_seeds)
    return Change(found.value, found.low, found.high, seeds, values.mean(0) if layered else None)


def _by_seed(twins: Sequence[Twin], side: Callable[[Estimate], Array]) -> Array:
    """Change in each seed, averaged over its pairs: the first axis is the seed."""
    seeds = sorted({seed for seed, *_ in twins})
    return np.array(
        [
            np.mean([_moved(before, after, side) for s, before, after in twins if s == seed], axis=0)
            for seed in seeds
        ]
    )


def _moved(before: Estimate, after: Estimate, side: Callable[[Estimate], Array]) -> Array:
    if before.quantity.layers:
        return st.relative_change(side(before), side(after))
    return np.asarray(side(after) - side(before))


def share(
    changes: Array, direction: int, unit: str, ways: tuple[str, str] = ("falls", "rises")
) -> tuple[Statistic, float, str]:
    """Share of layers or pairs that go the claimed way, its exact interval and sign test; and in words.

    `ways` are what a negative and a positive change is called.
    """
    n = len(changes)
    towards, away = int(np.sum(direction * changes > 0)), int(np.sum(direction * changes < 0))
    low, high = st.share_interval(towards, n)
    way = ways[direction > 0]
    name = f"share of {unit}s in which it {way} ({towards} of {n})"
    told = f"it {way} in {towards} of {n} {unit}{'s' if n > 1 else ''}"
    return Statistic(name, towards / n, low, high, st.sign_test_p(towards, away)), towards / n, told


def limitation(change: Change, twins: Sequence[Twin]) -> str:
    """Why the interval cannot be taken at its word, if so; empty otherwise."""
    if change.low is None:
        n = len(twins[0][1].value)
        return f"{n} layer{'s' if n > 1 else ''} are too few for a 95 % interval, which takes 6"
    larger = [after if change.value > 0 else before for _, before, after in twins]
    floors = [reading.quantity.floor() for reading in larger if reading.quantity.floor]
    if not floors:
        return ""
    value, floor = float(np.mean([reading.value for reading in larger])), float(np.mean(floors))
    if value > floor:
        return ""
    return f"even the larger value, {value:.3g}, is no more than sampling alone gives (up to {floor:.3g})"


def describe_change(noun: str, twins: Sequence[Twin]) -> str:
    """From where to where the quantity describe_change, in words."""
    before = float(np.mean([float(reading.value) for _, reading, _ in twins]))
    after = float(np.mean([float(reading.value) for _, _, reading in twins]))
    labels = {(one.source.label, other.source.label) for _, one, other in twins}
    of = next(iter(labels)) if len(labels) == 1 else ("mean without AWP", "mean with AWP")
    return f"{noun} went from {before:.3g} ({of[0]}) to {after:.3g} ({of[1]})"


def note(
    twins: Sequence[Twin], looks: Sequence[SensitivityCheck], missing: Sequence[str], towards: float
) -> str:
    """What the interval covers, the second looks, and which runs are missing.

    `towards` is positive where the claim's own quantity went the claimed way: what a second look agrees with.
    """
    parts = [_covers(twins), *(_second_look(look, twins, towards) for look in looks)]
    if missing:
        parts.append(f"missing: {listed(missing)}")
    return "; ".join(parts)


def _covers(twins: Sequence[Twin]) -> str:
    seeds = len({seed for seed, *_ in twins})
    over = "examples" if twins[0][1].quantity.examples else "layers"
    apart = any(before.quantity.examples != after.quantity.examples for _, before, after in twins)
    covered = (
        f"one seed: the interval is over {over} and does not cover training randomness"
        if seeds == 1
        else f"{seeds} seeds: the interval covers training randomness and {over}"
    )
    parts = [
        covered,
        "an unqualified verdict takes at least 3 seeds" if seeds == 2 else "",
        twins[0][1].quantity.caveat,
        "the runs were measured on different images, which are resampled apart" if apart else "",
    ]
    return "; ".join(part for part in parts if part)


def _second_look(look: SensitivityCheck, twins: Sequence[Twin], towards: float) -> str:
    """The change of another quantity in the same pairs, and whether it agrees with the claim's own."""
    try:
        before, not_before = read(look.measure, [one.source for _, one, _ in twins])
        after, not_after = read(look.measure, [other.source for _, _, other in twins])
    except Unusable as reason:
        return f"{look.noun}: {reason}"
    if not_before or not_after:
        return f"{look.noun}: not measured"
    layered = bool(before[0].quantity.layers)
    changes = [_moved(*pair, lambda reading: reading.value) for pair in zip(before, after, strict=True)]
    change = float(np.median(np.mean(changes, axis=0)))
    size = f"{100 * change:+.3g} % in the median layer" if layered else f"{change:+.3g}"
    if not change * look.direction * towards < 0:
        return f"{look.noun}: {size}"
    return f"{look.noun} goes the other way, {size}{f' ({look.caution})' if look.caution else ''}"
