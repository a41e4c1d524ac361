"""Claims that AWP regularises flatness directly: over gamma, over weight steps, against random weights."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.designs import compared, matched_pairs
from robustlens.claims.estimates import Estimate, estimate, lacking, listed
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, SensitivityCheck, checkpoints
from robustlens.claims.missing import Untested
from robustlens.claims.pairs import MatchedPair
from robustlens.claims.verdict import ORDER, Consistency, Findings
from robustlens.claims.wu2020 import quantities, selections
from robustlens.results import Statistic
from robustlens.stats.ranks import spearman

PAPER = "Wu et al. 2020"


def over(option: str) -> Design:
    """Runs with AWP that differ in one option: the largest against the smallest, ladder by ladder."""

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        ladders = selections.ladders(study, option)
        if not ladders:
            found = f"needs runs with AWP of at least two values of {option} that are else alike, found none"
            raise Untested(found, remedies.awp_ladder(option))
        estimates, missing = estimate(hypothesis.estimator, [run for own in ladders for run in own])
        of_run = {one.run: one for one in estimates}
        whole = [own for own in ladders if own[0] in of_run and own[-1] in of_run]
        if not whole:
            raise lacking(listed(missing), missing)
        return compared(
            hypothesis,
            study,
            [MatchedPair(of_run[own[0]], of_run[own[-1]]) for own in whole],
            estimates,
            missing,
            ends=(f"at the smallest {option}", f"at the largest {option}"),
            consistency=partial(_trend, hypothesis.direction, option, whole, of_run),
        )

    return Design(findings, checkpoints)


def _trend(
    direction: int, option: str, ladders: Sequence[Sequence[RunData]], of_run: dict[RunData, Estimate]
) -> Consistency:
    """Mean over ladders of the rank correlation with the option."""
    rhos, whole = [], [[run for run in own if run in of_run] for own in ladders]
    for measured in whole:
        x = np.array([float(run.entry.perturbation_options[option]) for run in measured])
        rho = spearman(x, np.array([float(of_run[run].value) for run in measured]))
        rhos.append(0.0 if rho is None else rho)
    rungs, mean = min(map(len, whole)), float(np.mean(rhos))
    return Consistency(
        Statistic(f"mean Spearman over {rungs} values of {option}", mean),
        agreement=direction * mean if rungs >= 3 else None,
        needed=ORDER,
        words=f"rank correlation with {option} {mean:+.2f}, in the mean of {len(rhos)} ladders"
        if rungs >= 3
        else "",
    )


def _flatter(name: str, statement: str, how: str, design: Design) -> Hypothesis:
    return Hypothesis(
        id=name,
        paper=PAPER,
        statement=statement,
        quantity=f"mean rise of the adversarial test loss at |alpha| = 0.5, {how}",
        noun="rise of the adversarial loss",
        unit="nats",
        estimator=quantities.rise,
        direction=-1,
        design=design,
        sensitivity=(
            SensitivityCheck(
                "temperature-matched rise", quantities.matched_rise, -1, "low confidence alone looks flat"
            ),
            SensitivityCheck("robust gap", quantities.robust_gap, -1),
        ),
    )


HYPOTHESES = (
    _flatter(
        "awp-larger-flatter",
        "The larger gamma, the more AWP flattens the landscape.",
        "over runs with AWP that differ in gamma alone",
        over("gamma"),
    ),
    _flatter(
        "awp-more-steps-flatter",
        "The more weight steps, the more AWP flattens the landscape.",
        "over runs with AWP that differ in steps alone",
        over("steps"),
    ),
    _flatter(
        "awp-flatter-than-random",
        "AWP flattens the landscape more than random perturbation of the same size.",
        "with AWP against random weight perturbation of the same gamma, objective, strength and seed",
        matched_pairs(
            selections.against_random,
            ends=("with random perturbation", "with AWP"),
            nothing="the study has no run with AWP beside one with random perturbation (rwp)",
            remedy=remedies.random_control,
            parts=selections.objectives(selections.against_random),
        ),
    ),
)
"""In the order of the report."""
