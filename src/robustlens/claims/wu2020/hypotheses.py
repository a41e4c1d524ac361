"""Claims of Wu, Xia and Wang (NeurIPS 2020): AWP against none, and flatness against the robust gap."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from robustlens.claims.correlations import across_methods, along_training
from robustlens.claims.estimates import Estimator
from robustlens.claims.evidence import StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, SensitivityCheck
from robustlens.claims.wu2020 import adversarial_flatness, ladder, quantities, robustness, selections
from robustlens.claims.wu2020.robustness import PAIRS

PAPER = "Wu et al. 2020"


def _gap_grows_with(
    design: Callable[[Estimator, str], Design],
    correlation: str,
    name: str,
    statement: str,
    sharpness: str,
    estimator: Estimator,
    noun: str,
    sensitivity: Callable[[StudyData], tuple[SensitivityCheck, ...]] = lambda _: (),
) -> Hypothesis:
    """Claim that the robust gap grows with the sharpness of a network, which `estimator` measures."""
    return Hypothesis(
        id=name,
        paper=PAPER,
        statement=statement,
        quantity=f"{correlation}, between {sharpness} and the robust gap",
        noun="robust gap",
        estimator=quantities.robust_gap,
        direction=1,
        design=design(estimator, noun),
        sensitivity=sensitivity,
    )


_flatter = partial(
    _gap_grows_with,
    partial(across_methods, parts=selections.without_awp_then_with),
    "rank correlation, over all adversarially trained methods and strengths (means over seeds)",
)
_together = partial(
    _gap_grows_with,
    along_training,
    "mean over adversarially trained runs of the rank correlation, over epochs",
)


def _further_flat(study: StudyData) -> tuple[SensitivityCheck, ...]:
    """Second looks at "AWP flattens": at matched temperature, of the error, at other places and images."""
    return (
        SensitivityCheck(
            "temperature-matched rise", quantities.matched_rise, -1, "low confidence alone looks flat"
        ),
        SensitivityCheck("rise of the adversarial error", quantities.error_rise, -1),
        *(replace(check, direction=-1) for check in quantities.further_rises(study)),
    )


HYPOTHESES = (
    Hypothesis(
        id="awp-smaller-robust-gap",
        paper=PAPER,
        statement="AWP makes the robust generalization gap smaller.",
        quantity=(
            "training minus test robust accuracy under the same attacks, with AWP against without, "
            "at the same objective, strength and seed"
        ),
        noun="robust gap",
        estimator=quantities.robust_gap,
        direction=-1,
        design=PAIRS,
    ),
    Hypothesis(
        id="awp-flatter",
        paper=PAPER,
        statement="AWP flattens the adversarial weight-loss landscape.",
        quantity=(
            "mean rise of the adversarial test loss at |alpha| = 0.5 (or the largest alpha up to 1 "
            "that all runs share) over filter-normalised directions, attacked anew at every point; "
            "low confidence alone looks flat, so the rise at matched temperature is in the note"
        ),
        noun="rise of the adversarial loss",
        unit="nats",
        estimator=quantities.rise,
        direction=-1,
        design=PAIRS,
        sensitivity=_further_flat,
    ),
    _flatter(
        "flatter-smaller-gap",
        "The flatter the adversarial weight-loss landscape, the smaller the robust gap.",
        "the rise of the adversarial loss along random directions",
        quantities.rise,
        "landscape rise",
        quantities.further_rises,
    ),
    _flatter(
        "flatter-at-matched-temperature-smaller-gap",
        "The flatter the landscape at matched temperature, the smaller the robust gap.",
        "the rise of the adversarial loss along random directions at each network's own best "
        "temperature, which low confidence does not flatten,",
        quantities.matched_rise,
        "matched landscape rise",
    ),
    _flatter(
        "average-case-flatter-smaller-gap",
        "The flatter the adversarial loss is on average around the weights, the smaller the robust gap.",
        "the mean rise of the adversarial loss over random relative weight perturbations (average-case "
        "flatness of Stutz, Hein and Schiele 2021)",
        quantities.average_case,
        "average-case flatness",
        partial(quantities.further_flatness, quantities.average_case),
    ),
    _flatter(
        "worst-case-flatter-smaller-gap",
        "The flatter the adversarial loss is at worst near the weights, the smaller the robust gap.",
        "the rise of the adversarial loss at the worst small relative weight perturbation found "
        "(worst-case flatness of Stutz, Hein and Schiele 2021)",
        quantities.worst_case,
        "worst-case flatness",
        partial(quantities.further_flatness, quantities.worst_case),
    ),
    _flatter(
        "smaller-eigenvalue-smaller-gap",
        "The smaller the largest curvature of the adversarial loss, the smaller the robust gap.",
        "the largest eigenvalue of the Hessian of the adversarial loss by weights in units of their "
        "filter's root mean square, at matched temperature: the plain one depends on the scale of the "
        "weights and of the logits,",
        quantities.top_eigenvalue,
        "largest eigenvalue",
    ),
    _flatter(
        "smaller-trace-smaller-gap",
        "The smaller the mean curvature of the adversarial loss, the smaller the robust gap.",
        "the trace of the Hessian of the adversarial loss by weights in units of their filter's root "
        "mean square, at matched temperature,",
        quantities.trace,
        "Hessian trace",
    ),
    _together(
        "gap-follows-landscape",
        "Along training, the robust gap grows as the adversarial weight-loss landscape gets sharper.",
        "the rise of the adversarial loss along random directions",
        quantities.rise,
        "landscape rise",
    ),
    _together(
        "gap-follows-landscape-at-matched-temperature",
        "Along training, the robust gap grows as the landscape at matched temperature gets sharper.",
        "the rise of the adversarial loss at each network's own best temperature",
        quantities.matched_rise,
        "matched landscape rise",
    ),
    *robustness.HYPOTHESES,
    *ladder.HYPOTHESES,
    *adversarial_flatness.HYPOTHESES,
)
"""In the order of the report."""
