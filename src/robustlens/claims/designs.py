"""Designs of matched pairs: over the strengths of training, or of two methods at the same seed.

A design gathers the runs that it needs, estimates one quantity of each, and returns `Findings`. The direction
that a paper claims serves it only to express agreement; the verdict is that of `verdict.decide`. The designs
that correlate two quantities are in `correlations`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.estimates import Estimate, estimate, lacking, listed
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, checkpoints, settings_at_checkpoints
from robustlens.claims.missing import Missing, Untested
from robustlens.claims.pairs import MatchedPair, describe_change, effect, labels, limitation, note, share
from robustlens.claims.robustness import against_measured_robustness, robust_accuracy
from robustlens.claims.verdict import ORDER, Consistency, Findings
from robustlens.results import Effect, Statistic
from robustlens.stats.ranks import spearman, spearman_p


def _strength_sweep(hypothesis: Hypothesis, study: StudyData) -> Findings:
    """Standard against ever stronger adversarial training: strongest minus weakest, seed by seed.

    Raises:
        Untested: fewer than two strengths, or the weakest or strongest was not measured.
    """
    planned = _sweep(study)
    strengths = sorted({run.eps for run in planned})
    if len(strengths) < 2:
        trained = f"{len(strengths)} (eps {strengths[0]:g})" if strengths else "none"
        raise Untested(
            f"needs at least two strengths of standard and adversarial training without AWP, found {trained}",
            remedies.strengths(study.record),
        )
    estimates, missing = estimate(hypothesis.estimator, planned)
    by_place = {(one.run.eps, one.run.entry.seed): one for one in estimates}
    weakest, strongest = strengths[0], strengths[-1]
    pairs = [
        MatchedPair(one, by_place[strongest, seed])
        for (eps, seed), one in by_place.items()
        if eps == weakest and (strongest, seed) in by_place
    ]
    if not pairs:
        no_seed = "no training seed was run at both the weakest and the strongest strength"
        raise lacking(listed(missing) or no_seed, missing)
    findings = compared(
        hypothesis,
        study,
        pairs,
        estimates,
        missing,
        ends=("weakest", "strongest"),
        consistency=lambda: _trend(hypothesis, study, estimates),
    )
    if hypothesis.estimator is robust_accuracy:
        return findings
    return replace(findings, note=f"{findings.note}; second look: {against_measured_robustness(estimates)}")


def _sweep(study: StudyData) -> list[RunData]:
    """Standard training and plain adversarial training, one run for each strength and seed, ascending.

    Nothing but the strength may differ: the most common setting counts, of those with several strengths if
    there are any. Where a study trains one strength and seed in two ways, the method with more runs is taken.
    """
    runs = study.unperturbed()
    strengths: dict[str | None, set[float]] = {}
    for run in runs:
        strengths.setdefault(run.entry.setting, set()).add(run.eps)
    several = [run for run in runs if len(strengths[run.entry.setting]) > 1] or runs
    usual = Counter(run.entry.setting for run in several).most_common(1)
    runs = [run for run in several if run.entry.setting == usual[0][0]]
    frequency = Counter(run.entry.method for run in runs)
    chosen: dict[tuple[float, int], RunData] = {}
    for run in sorted(runs, key=lambda run: -frequency[run.entry.method]):
        chosen.setdefault((run.eps, run.entry.seed), run)
    return [chosen[place] for place in sorted(chosen)]


def _trend(hypothesis: Hypothesis, study: StudyData, estimates: Sequence[Estimate]) -> Consistency:
    """Rank correlation of the quantity with strength, over all strengths and seeds."""
    x = np.array([one.run.eps for one in estimates])
    y = np.array([float(one.value) for one in estimates])
    seeds = np.array([one.run.entry.seed for one in estimates])
    strengths = len(set(x.tolist()))
    rho = spearman(x, y)
    p = None if rho is None else spearman_p(x, y, seeds, study.bootstrap.generator("spearman"))
    enough = strengths >= 3
    return Consistency(
        Statistic(f"Spearman over {strengths} strengths", rho, p=p),
        agreement=hypothesis.direction * (rho or 0.0) if enough else None,
        needed=ORDER,
        words=f"rank correlation with strength {rho:+.2f} over {strengths} strengths"
        if enough and rho is not None
        else "",
    )


Partner = tuple[RunData, RunData | None]
"""A run, and the one that it is held against; None where the study has none."""


def matched_pairs(
    pairs_of: Callable[[StudyData], Sequence[Partner]],
    *,
    ends: tuple[str, str],
    nothing: str,
    remedy: Callable[[], str],
    parts: Callable[[StudyData], Sequence[StudyData]] = checkpoints,
) -> Design:
    """Design that holds every run against its partner of the same training seed.

    Args:
        pairs_of: the runs of a study, each with its partner.
        ends: words for the partners and for the runs: "without AWP", "with AWP".
        nothing: why the claim is untested where there is no such run.
        remedy: lines of a study file that would train both.
        parts: of a study, checked one by one.
    """
    before = ends[0]

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        planned = pairs_of(study)
        if not planned:
            raise Untested(nothing, remedy())
        missing = [
            Missing(f"{run.name} has no matching run {before}", remedy())
            for run, partner in planned
            if partner is None
        ]
        both = [(partner, run) for run, partner in planned if partner is not None]
        runs = dict.fromkeys(run for pair in both for run in pair)
        estimates, unmeasured = estimate(hypothesis.estimator, runs)
        missing += unmeasured
        of_run = {one.run: one for one in estimates}
        pairs = [
            MatchedPair(of_run[partner], of_run[run])
            for partner, run in both
            if partner in of_run and run in of_run
        ]
        if not pairs:
            raise lacking(listed(missing), missing)

        def of_pairs() -> Consistency:
            changes = np.array([float(pair.change(lambda one: one.value)) for pair in pairs])
            consistency = share(changes, hypothesis.direction, "pair", least=3)
            return consistency if len(pairs) > 1 else replace(consistency, words="")

        return compared(hypothesis, study, pairs, estimates, missing, ends=ends, consistency=of_pairs)

    return Design(findings, parts)


def matching(run: RunData) -> object:
    """Key that a run shares with its partner: the hash of the recipe without AWP, where the study has it."""
    return run.entry.unperturbed or (run.entry.objective, run.eps, run.entry.seed)


def compared(
    hypothesis: Hypothesis,
    study: StudyData,
    pairs: Sequence[MatchedPair],
    estimates: Sequence[Estimate],
    missing: Sequence[Missing],
    *,
    ends: tuple[str, str],
    consistency: Callable[[], Consistency],
) -> Findings:
    """Findings of matched pairs.

    Args:
        hypothesis: the claim.
        study: the part that it is checked in.
        pairs: of which the effect is the mean change.
        estimates: of all runs, for the claim's values.
        missing: a reason for each run that has none.
        ends: words for the runs before and after.
        consistency: that of a quantity with one number per run; with one per layer it is the share of layers.
    """
    noun, change = hypothesis.noun, effect(pairs, study)
    before, after = ends
    interval = change.interval
    if change.layers is None:
        seen, size = describe_change(noun, pairs, ends), "a change of"
        name, unit = f"{noun}, {after} minus {before}", hypothesis.unit
        scale, factor = max(float(np.abs(one.value)) for one in estimates), 1.0
        consistent = consistency()
    else:
        first, last = labels(pairs[:1]) or ends
        seen, size = f"{noun} from {first} to {last}", "in the median layer a change of"
        name, unit = f"{noun}, {after} against {before}, median layer", "%"
        scale, factor = 100.0, 100.0
        consistent = share(change.layers, hypothesis.direction, "layer")
    value, low, high = (
        None if end is None else factor * end for end in (interval.value, interval.low, interval.high)
    )
    return Findings(
        seen=seen,
        size=size,
        effect=Effect(name, value, low, high, unit, interval.p),
        consistency=consistent,
        values=tuple(one.claim_value() for one in estimates),
        seeds=change.seeds,
        note=note(pairs, hypothesis.checks(study), missing, hypothesis.direction * interval.value),
        scale=scale,
        limitation=limitation(change, pairs),
    )


STRENGTH_SWEEP = Design(_strength_sweep, settings_at_checkpoints)
"""Over the strengths of training, in every setting and at every checkpoint."""
