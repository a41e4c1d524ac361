"""Claims that AWP makes networks more robust, overfits less, and does better than early stopping.

And, after Yu et al. 2022, whose images do it: those of small loss.
"""

from collections.abc import Callable, Sequence
from functools import partial

from robustlens.claims import remedies
from robustlens.claims.designs import Partner, matched_pairs
from robustlens.claims.estimates import Estimator
from robustlens.claims.evidence import StudyData
from robustlens.claims.hypothesis import Design, Hypothesis, SensitivityCheck
from robustlens.claims.missing import Missing
from robustlens.claims.robustness import robust_accuracy
from robustlens.claims.wu2020 import overfitting, quantities, selections

PAPER = "Wu et al. 2020"
ROBUST_WEIGHTS = "Yu et al. 2022"

PAIRS = matched_pairs(
    selections.against_none,
    ends=("without AWP", "with AWP"),
    nothing="the study has no adversarially trained run with AWP",
    remedy=remedies.awp_pair,
    parts=selections.objectives(selections.against_none),
)
"""With AWP against without, at every checkpoint, over all objectives and for each."""
WHOLE_TRAINING = matched_pairs(
    selections.against_none,
    ends=("without AWP", "with AWP"),
    nothing="the study has no adversarially trained run with AWP",
    remedy=remedies.awp_pair,
    parts=selections.objectives(selections.against_none, lambda study: [study]),
)
"""With AWP against without, in a number of the whole training."""


def after_attacks(study: StudyData) -> tuple[SensitivityCheck, ...]:
    """Robust accuracy after each attack and suite of the evaluation, where there are several."""
    for run in study.runs:
        try:
            columns = list(run.evaluation.columns)
        except Missing:
            continue
        checks = (
            SensitivityCheck(f"robust accuracy after {name}", partial(quantities.accuracy_after, name), 1)
            for name in columns
        )
        return tuple(checks) if len(columns) > 1 else ()
    return ()


def _images(pairs_of: Callable[[StudyData], Sequence[Partner]], other: str) -> Design:
    return matched_pairs(
        pairs_of,
        ends=(other, "with AWP by small losses"),
        nothing="the study has no run with AWP by the images of small loss",
        remedy=remedies.awp_by_images,
        parts=selections.objectives(pairs_of),
    )


def _more_robust(
    name: str,
    statement: str,
    design: Design,
    paper: str,
    against: str,
    sensitivity: tuple[SensitivityCheck, ...] | Callable[[StudyData], tuple[SensitivityCheck, ...]],
) -> Hypothesis:
    estimator: Estimator = robust_accuracy
    return Hypothesis(
        id=name,
        paper=paper,
        statement=statement,
        quantity=f"share of test images right under every attack of the evaluation, {against}, "
        "at the same objective, strength and seed",
        noun="robust accuracy",
        estimator=estimator,
        direction=1,
        design=design,
        sensitivity=sensitivity,
    )


_FLATTER = (
    SensitivityCheck("robust gap", quantities.robust_gap, -1),
    SensitivityCheck("rise of the adversarial loss", quantities.rise, -1),
)

HYPOTHESES = (
    _more_robust(
        "awp-more-robust",
        "AWP makes networks more robust.",
        PAIRS,
        PAPER,
        "with AWP against without",
        after_attacks,
    ),
    Hypothesis(
        id="awp-less-overfitting",
        paper=PAPER,
        statement="AWP makes robust overfitting smaller.",
        quantity="robust test accuracy at the best checkpoint (chosen on validation images) minus its mean "
        "over the evaluated epochs among the last ten; where no run was evaluated beside its best "
        "checkpoint, the same of the monitor's validation images, whose best epoch is the highest",
        noun="fall of robust accuracy from best to last",
        estimator=overfitting.fall,
        direction=-1,
        design=WHOLE_TRAINING,
        sensitivity=(SensitivityCheck("fall on validation images", overfitting.fall_of_monitor, -1),),
    ),
    _more_robust(
        "awp-beats-early-stopping",
        "AWP at the end of training is more robust than the same training without it, stopped early.",
        matched_pairs(
            selections.against_early_stopping,
            ends=("without AWP, stopped early", "with AWP, at the end"),
            nothing="the study has no adversarially trained run with AWP",
            remedy=remedies.awp_pair,
            parts=selections.objectives(selections.against_none, lambda study: [study]),
        ),
        PAPER,
        "with AWP at the last checkpoint against without at the best one, which early stopping keeps",
        (),
    ),
    _more_robust(
        "awp-by-small-losses-more-robust",
        "AWP by the images of small loss alone makes networks more robust.",
        _images(selections.small_loss_against_none, "without AWP"),
        ROBUST_WEIGHTS,
        "with AWP by images of small loss against without AWP",
        _FLATTER,
    ),
    _more_robust(
        "awp-small-losses-do-the-work",
        "AWP by the images of small loss makes networks more robust than AWP by the others.",
        _images(selections.small_loss_against_large, "with AWP by large losses"),
        ROBUST_WEIGHTS,
        "with AWP by images of small loss against AWP by images of large loss",
        _FLATTER,
    ),
    _more_robust(
        "awp-large-losses-hurt",
        "AWP without the images of large loss makes networks more robust than AWP by all images.",
        _images(selections.small_loss_against_all, "with AWP by all images"),
        ROBUST_WEIGHTS,
        "with AWP by images of small loss against AWP by all images",
        _FLATTER,
    ),
)
"""In the order of the report."""
