"""Matched pairs of runs: the effect of what differs between them, its interval, and the note."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robustlens.claims.estimates import Estimate, estimate, listed
from robustlens.claims.evidence import StudyData
from robustlens.claims.hypothesis import SensitivityCheck
from robustlens.claims.missing import Missing
from robustlens.claims.verdict import SHARE, Consistency
from robustlens.results import Statistic
from robustlens.stats.bootstrap import (
    Array,
    Unusable,
    hull,
    identity,
    interval_of_median,
    interval_over_examples,
    interval_over_seeds,
    median,
    relative_change,
)
from robustlens.stats.intervals import Inference, rounded
from robustlens.stats.ranks import share_interval, sign_test_p

LEAST_SCALE = 1e-3
"""Rates and losses below a billionth of this are differences of equal numbers."""
FLOAT32 = 1e-6
"""Rounding of a mean of float32 numbers: a second look that moves by less has not moved."""


@dataclass(frozen=True)
class MatchedPair:
    """Two runs of one training seed that differ in one respect."""

    before: Estimate
    after: Estimate

    @property
    def seed(self) -> int:
        """The training seed of both."""
        return self.before.run.entry.seed

    def change(self, side: Callable[[Estimate], Array]) -> Array:
        """Change of a value that `side` takes from each run, relative where there is a number per layer."""
        if self.before.quantity.layers:
            return relative_change(side(self.before), side(self.after))
        return np.asarray(side(self.after) - side(self.before))


@dataclass(frozen=True)
class Change:
    """The effect of the difference within pairs; `layers` holds its relative size in each layer, if any."""

    interval: Inference
    seeds: int
    layers: Array | None = None


def effect(pairs: Sequence[MatchedPair], study: StudyData) -> Change:
    """Mean change over the pairs of a seed, then over seeds, with its 95 % interval.

    One seed: bootstrap over examples. Several: over seeds, then examples. One number per layer: layers have
    scales of their own, so their changes are relative and the median layer stands for them; where there are
    no examples behind them (spectra), the layers are the units, by an exact sign test, and with several
    seeds the interval holds the one over seeds too.

    Raises:
        Unusable: the change is not finite, or resamples leave it undefined.
    """
    quantity, bootstrap = pairs[0].before.quantity, study.bootstrap
    reduce = median if quantity.layers else identity
    values = _by_seed(pairs, lambda one: one.value)
    if not np.isfinite(values).all():
        raise Unusable("the change is not finite: in some layer the quantity is zero at the weakest strength")
    seeds = len(values)

    def over_seeds(draws: Array) -> Inference:
        return interval_over_seeds(values, draws, reduce, bootstrap.generator("seeds"))

    if quantity.examples:
        draws = _by_seed(pairs, lambda one: bootstrap.draws(one.quantity))
        interval = (
            interval_over_examples(float(reduce(values)[0]), reduce(draws[0]))
            if seeds == 1
            else over_seeds(draws)
        )
    else:
        constant = np.broadcast_to(values[:, None], (seeds, bootstrap.resamples, *values.shape[1:]))
        if not quantity.layers:  # one number of each run, with nothing behind it to resample
            interval = over_seeds(constant) if seeds > 1 else Inference(float(values[0]))
        else:
            interval = interval_of_median(values.mean(0))
            interval = hull(interval, over_seeds(constant)) if seeds > 1 else interval
    return Change(interval, seeds, values.mean(0) if quantity.layers else None)


def _by_seed(pairs: Sequence[MatchedPair], side: Callable[[Estimate], Array]) -> Array:
    """Change in each seed, averaged over its pairs: the first axis is the seed."""
    seeds = sorted({pair.seed for pair in pairs})
    return np.array(
        [np.mean([pair.change(side) for pair in pairs if pair.seed == seed], axis=0) for seed in seeds]
    )


def share(
    changes: Array, direction: int, unit: str, least: int = 1, ways: tuple[str, str] = ("falls", "rises")
) -> Consistency:
    """Share of layers, pairs or runs that go the claimed way, with its exact interval and sign test.

    Args:
        changes: (n,), one for each unit.
        direction: the claimed one.
        unit: name of a unit.
        least: with fewer units, their share is not asked for support.
        ways: words for a negative and a positive change.
    """
    n = len(changes)
    towards, away = int(np.sum(direction * changes > 0)), int(np.sum(direction * changes < 0))
    low, high = share_interval(towards, n)
    way = ways[direction > 0]
    return Consistency(
        statistic=Statistic(
            f"share of {unit}s in which it {way} ({towards} of {n})",
            towards / n,
            low,
            high,
            sign_test_p(towards, away),
        ),
        agreement=towards / n if n >= least else None,
        needed=SHARE,
        words=f"it {way} in {towards} of {n} {unit}{'s' if n > 1 else ''}",
    )


def limitation(change: Change, pairs: Sequence[MatchedPair]) -> str:
    """Reason why the interval alone does not decide; empty if it does."""
    if change.interval.low is None and change.layers is None:
        return "one number of one seed has no interval"
    if change.interval.low is None:
        n = len(pairs[0].before.value)
        return f"{n} layer{'s' if n > 1 else ''} are too few for a 95 % interval, which takes 6"
    larger = [pair.after if change.interval.value > 0 else pair.before for pair in pairs]
    floors = [one.quantity.floor() for one in larger if one.quantity.floor]
    if not floors:
        return ""
    value, floor = float(np.mean([one.value for one in larger])), float(np.mean(floors))
    if value > floor:
        return ""
    return f"even the larger value, {value:.3g}, is no more than sampling alone gives (up to {floor:.3g})"


def labels(pairs: Sequence[MatchedPair]) -> tuple[str, str] | None:
    """What reports call the runs before and after; None where that differs, or does not tell them apart."""
    each = {(pair.before.run.entry.label, pair.after.run.entry.label) for pair in pairs}
    before, after = next(iter(each))
    return (before, after) if len(each) == 1 and before != after else None


def describe_change(noun: str, pairs: Sequence[MatchedPair], ends: tuple[str, str]) -> str:
    """Mean values of the quantity before and after, in words; `ends` name these where labels differ."""
    before = float(np.mean([float(pair.before.value) for pair in pairs]))
    after = float(np.mean([float(pair.after.value) for pair in pairs]))
    scale = max(abs(before), abs(after), LEAST_SCALE)
    ends = labels(pairs) or (f"mean {ends[0]}", f"mean {ends[1]}")
    first, last = (f"{rounded(value, scale):.3g}" for value in (before, after))
    return f"{noun} went from {first} ({ends[0]}) to {last} ({ends[1]})"


def note(
    pairs: Sequence[MatchedPair],
    checks: Sequence[SensitivityCheck],
    missing: Sequence[Missing],
    towards: float,
) -> str:
    """Coverage of the interval, results of the sensitivity checks, and the runs that are missing.

    `towards` is positive where the claim's own quantity went the claimed way: a check agrees with that.
    """
    looks = (f"second look: {_checked(check, pairs, towards)}" for check in checks)
    parts = [*_coverage(pairs), *looks]
    if missing:
        parts.append(f"missing: {listed(missing)}")
    return "; ".join(part for part in parts if part)


def _coverage(pairs: Sequence[MatchedPair]) -> tuple[str, ...]:
    seeds, quantity = len({pair.seed for pair in pairs}), pairs[0].before.quantity
    sides = [side for pair in pairs for side in (pair.before, pair.after)]
    over = "examples" if quantity.examples else "layers" if quantity.layers else "runs"
    apart = any(pair.before.quantity.examples != pair.after.quantity.examples for pair in pairs)
    return (
        "one seed: there is no interval"
        if seeds == 1 and over == "runs"
        else f"one seed: the interval is over {over} and does not cover training randomness"
        if seeds == 1
        else f"{seeds} seeds: the interval covers training randomness"
        + (f" and {over}" if over != "runs" else ""),
        "an unqualified verdict takes at least 3 seeds" if seeds == 2 else "",
        listed(list(dict.fromkeys(caveat for side in sides if (caveat := side.quantity.caveat)))),
        "the runs were measured on different images, which are resampled apart" if apart else "",
    )


def _checked(check: SensitivityCheck, pairs: Sequence[MatchedPair], towards: float) -> str:
    """The change of another quantity in the same pairs, and whether it agrees with the claim's own."""
    try:
        before, not_before = estimate(check.estimator, [pair.before.run for pair in pairs])
        after, not_after = estimate(check.estimator, [pair.after.run for pair in pairs])
    except Unusable as reason:
        return f"{check.noun}: {reason}"
    if not_before or not_after:
        return f"{check.noun}: not measured"
    changes = [MatchedPair(*sides).change(lambda one: one.value) for sides in zip(before, after, strict=True)]
    change = float(np.median(np.mean(changes, axis=0)))
    layered = bool(before[0].quantity.layers)
    scale = 1.0 if layered else max(abs(float(one.value)) for one in (*before, *after))
    change = 0.0 if abs(change) <= FLOAT32 * scale else change
    size = f"{100 * change:+.3g} % in the median layer" if layered else f"{change:+.3g}"
    if not change * check.direction * towards < 0:
        return f"{check.noun}: {size}"
    return f"{check.noun} goes the other way, {size}{f' ({check.caution})' if check.caution else ''}"
