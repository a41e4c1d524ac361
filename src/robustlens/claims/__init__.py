"""Claims: what the papers say, checked on the runs of a study. Run files in, `claims.json` out; no torch.

Nothing here knows the answer. A claim is a quantity of a run and the direction in which a paper says it
goes; the verdict comes from the data, by one rule (`findings.decide`):

- The *effect* is the quantity at the strongest strength minus at the weakest (or with AWP minus without; or
  a rank correlation), averaged over training seeds, with a 95 % interval. The *statistic* says how
  consistently it goes that way: Spearman's correlation with strength over all strengths and seeds, or the
  share of layers or of pairs.
- **Supported**: the interval lies wholly on the claimed side of zero, and the statistic agrees: a
  correlation of at least 0.5 in the claimed direction where there are three strengths or more, a share of
  at least 2/3 of the layers, or of three pairs or more.
- **Not supported**: the interval lies wholly on the other side of zero.
- **Inconclusive**: everything else. The interval holds zero; or the ends differ but the statistic does not
  agree; or distances are within what sampling alone gives; or data are missing, not finite, too few, or
  were measured under different conditions. No effect is called negligible: an interval tight around zero is
  inconclusive too, and shows how small an effect could be.

What the interval covers is said in the claim's note. With one seed it is a bootstrap over images, in pairs
where runs saw the same images, and covers no training randomness. With several it is a bootstrap over seeds
and images with Student's quantile. Training and test images are resampled apart. A quantity that is one
number per layer (spectra) has no images behind it: layers are the units, by an exact sign test, which takes
six of them. A claim about strengths is checked apart in every setting (architecture, BatchNorm, data ...) in
which the study has several of them; one about AWP or flatness at the best and at the last checkpoint, where
the study evaluates both. Missing runs in the middle of the ladder are named in the note; without
its ends there is no effect.

To add a claim, write one function of a run and one entry of `CLAIMS`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from robustlens.claims.correlations import across_methods, along_training
from robustlens.claims.designs import PAIRS, STRENGTH_SWEEP, Design, Hypothesis
from robustlens.claims.evidence import Estimator, StudyData
from robustlens.claims.pairs import SensitivityCheck
from robustlens.claims.verdict import Claim, Effect, Statistic, Verdict
from robustlens.claims.wen2020 import quantities as wen2020
from robustlens.claims.wu2020 import quantities as wu2020
from robustlens.results.folders import FORMAT, StudyFolder, write_json
from robustlens.stats.bootstrap import Quantity

__all__ = ["CLAIMS", "Claim", "Effect", "Hypothesis", "Statistic", "Verdict", "check", "write"]

WEN = "Wen et al. 2020"
WU = "Wu et al. 2020"


def _matched(measure: Callable[..., Quantity], direction: Literal[-1, 1]) -> SensitivityCheck:
    """The second look at what depends on confidence: the same at each network's own best temperature."""
    caution = "what the claim sees may be low confidence alone"
    return SensitivityCheck(
        "the same at matched temperature", partial(measure, matched=True), direction, caution
    )


def _gap_goes_with(
    design: Callable[[Estimator, str], Design],
    correlation: str,
    name: str,
    statement: str,
    what: str,
    measure: Estimator,
    noun: str,
) -> Hypothesis:
    """That the robust gap grows with how sharp a network is, which `measure` says."""
    return Hypothesis(
        id=name,
        paper=WU,
        statement=statement,
        quantity=f"{correlation}, between {what} and the robust gap",
        noun="robust gap",
        unit="",
        measure=wu2020.robust_gap,
        direction=1,
        design=design(measure, noun),
    )


_flatter = partial(
    _gap_goes_with,
    across_methods,
    "rank correlation, over all adversarially trained methods and strengths (means over seeds)",
)
_together = partial(
    _gap_goes_with,
    along_training,
    "mean over adversarially trained runs of the rank correlation, over epochs",
)

CLAIMS: dict[str, Hypothesis] = {
    hypothesis.id: hypothesis
    for hypothesis in (
        Hypothesis(
            id="accuracy-falls",
            paper=WEN,
            statement="Accuracy falls as adversarial training gets stronger.",
            quantity="share of test images classified right, unattacked",
            noun="test accuracy",
            unit="",
            measure=wen2020.accuracy,
            direction=-1,
            design=STRENGTH_SWEEP,
        ),
        Hypothesis(
            id="less-confident",
            paper=WEN,
            statement="Stronger adversarial training gives less confident networks.",
            quantity="mean of the largest class probability p_max on test images",
            noun="mean confidence",
            unit="",
            measure=wen2020.confidence,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(_matched(wen2020.confidence, -1),),
        ),
        Hypothesis(
            id="margins-concentrate",
            paper=WEN,
            statement="Stronger adversarial training concentrates samples around the decision boundaries.",
            quantity=(
                "share of test images whose probability margin p_y - max p_i is within 0.2 of zero: the"
                " paper speaks of concentration around the boundary, and a spread (the std, in the "
                "note, or the interquartile range) is small as well where a sure network has all its "
                "margins near 1; logit margins depend on the scale of the logits"
            ),
            noun="share of images near the boundary",
            unit="",
            measure=wen2020.near_boundary,
            direction=1,
            design=STRENGTH_SWEEP,
            also=(
                SensitivityCheck(
                    "std of the probability margin",
                    wen2020.margin_spread,
                    -1,
                    "margins gather near the boundary without growing narrower as a whole",
                ),
                _matched(wen2020.near_boundary, 1),
                SensitivityCheck(
                    "std of the logit margin over the product of the layers' largest singular values",
                    wen2020.normalised_spread,
                    -1,
                    "the layers' gains fall faster than the margins",
                ),
            ),
        ),
        Hypothesis(
            id="smoother-under-attack",
            paper=WEN,
            statement="Stronger adversarial training makes sudden changes under perturbation smaller.",
            quantity="mean fall of the probability margin of test images under one fixed PGD attack",
            noun="change under attack",
            unit="",
            measure=wen2020.change_under_attack,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(_matched(wen2020.change_under_attack, -1),),
        ),
        Hypothesis(
            id="feature-change-falls",
            paper=WEN,
            statement="Stronger adversarial training makes features change less under perturbation in most "
            "layers.",
            quantity=(
                "for each layer, mean over test images of ||phi(x + delta) - phi(x)|| / ||phi(x)||, phi "
                "what the layer reads and delta that of one fixed PGD attack on the network; the same "
                "under random noise, which no network has chosen, is in the note; values are medians over "
                "layers"
            ),
            noun="relative change of features",
            unit="%",
            measure=wen2020.feature_change,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(
                SensitivityCheck(
                    "the same under random noise in the ball",
                    partial(wen2020.feature_change, moved="noise"),
                    -1,
                    "it is not smoother in all directions",
                ),
            ),
        ),
        Hypothesis(
            id="errors-indecisive",
            paper=WEN,
            statement="Stronger adversarial training makes misclassifications indecisive.",
            quantity=(
                "share of the errors on test images with p_max - p_y < 0.2; the rate among all test "
                "images is in the note"
            ),
            noun="share of errors that are indecisive",
            unit="",
            measure=wen2020.indecisive_share,
            direction=1,
            design=STRENGTH_SWEEP,
            also=(
                SensitivityCheck("rate of indecisive errors among all images", wen2020.indecisive_rate, 1),
                _matched(wen2020.indecisive_share, 1),
            ),
        ),
        Hypothesis(
            id="train-test-margins-closer",
            paper=WEN,
            statement="Stronger adversarial training brings the margins of training and test images closer.",
            quantity="Wasserstein-1 distance between the probability margins of training and of test images",
            noun="train-test margin distance",
            unit="",
            measure=wen2020.margin_distance,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(_matched(wen2020.margin_distance, -1),),
        ),
        Hypothesis(
            id="ramp-gap-shrinks",
            paper=WEN,
            statement="The gap of the ramp loss shrinks as adversarial training gets stronger.",
            quantity=(
                "test minus training ramp risk, the mean of 1 - M cut to 0..1, M the probability margin: "
                "the paper's ramp loss with gamma = 1, the largest margin that there is; on logit margins "
                "it would depend on their scale"
            ),
            noun="ramp gap",
            unit="",
            measure=wen2020.ramp_gap,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(_matched(wen2020.ramp_gap, -1),),
        ),
        Hypothesis(
            id="loss-gap-shrinks",
            paper=WEN,
            statement="The loss gap shrinks as adversarial training gets stronger.",
            quantity="test minus training cross entropy, unattacked",
            noun="loss gap",
            unit="nats",
            measure=wen2020.loss_gap,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(_matched(wen2020.loss_gap, -1),),
        ),
        Hypothesis(
            id="error-gap-grows",
            paper=WEN,
            statement="The error gap grows as adversarial training gets stronger.",
            quantity="test minus training error, unattacked",
            noun="error gap",
            unit="",
            measure=wen2020.error_gap,
            direction=1,
            design=STRENGTH_SWEEP,
        ),
        Hypothesis(
            id="activation-variation-falls",
            paper=WEN,
            statement="Stronger adversarial training makes activation norms vary less in most layers.",
            quantity=(
                "for each layer, std over mean of the norms of its output over test images (free of the"
                " layer's scale; the raw std is in the note); values are medians over layers"
            ),
            noun="variation of activation norms",
            unit="%",
            measure=wen2020.activation_variation,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(
                SensitivityCheck(
                    "raw std of activation norms",
                    wen2020.activation_spread,
                    -1,
                    "it depends on the scale of the layers",
                ),
            ),
        ),
        Hypothesis(
            id="singular-spread-falls",
            paper=WEN,
            statement="Stronger adversarial training lowers the spread of singular values in most layers.",
            quantity=(
                "for each layer, the standard deviation of its singular values, as the paper has it; it"
                " depends on the scale of the weights, so std over mean is in the note; values are "
                "medians over layers"
            ),
            noun="std of singular values",
            unit="%",
            measure=wen2020.spectrum_spread,
            direction=-1,
            design=STRENGTH_SWEEP,
            also=(
                SensitivityCheck(
                    "std over mean of singular values",
                    wen2020.spectrum_relative_spread,
                    -1,
                    "the raw spread moves with the scale of the weights, not with the shape of the spectrum",
                ),
            ),
        ),
        Hypothesis(
            id="awp-smaller-robust-gap",
            paper=WU,
            statement="AWP makes the robust generalization gap smaller.",
            quantity=(
                "training minus test robust accuracy under the same attacks, with AWP against without, "
                "at the same objective, strength and seed"
            ),
            noun="robust gap",
            unit="",
            measure=wu2020.robust_gap,
            direction=-1,
            design=PAIRS,
        ),
        Hypothesis(
            id="awp-flatter",
            paper=WU,
            statement="AWP flattens the adversarial weight-loss landscape.",
            quantity=(
                "mean rise of the adversarial test loss at |alpha| = 0.5 (or the largest alpha up to 1 "
                "that all runs share) over filter-normalised directions, attacked anew at every point; "
                "low confidence alone looks flat, so the rise at matched temperature is in the note"
            ),
            noun="rise of the adversarial loss",
            unit="nats",
            measure=wu2020.rise,
            direction=-1,
            design=PAIRS,
            also=(
                SensitivityCheck(
                    "temperature-matched rise", wu2020.matched_rise, -1, "low confidence alone looks flat"
                ),
                SensitivityCheck("rise of the adversarial error", wu2020.error_rise, -1),
            ),
        ),
        _flatter(
            "flatter-smaller-gap",
            "The flatter the adversarial weight-loss landscape, the smaller the robust gap.",
            "the rise of the adversarial loss along random directions",
            wu2020.rise,
            "landscape rise",
        ),
        _flatter(
            "flatter-at-matched-temperature-smaller-gap",
            "The flatter the landscape at matched temperature, the smaller the robust gap.",
            "the rise of the adversarial loss along random directions at each network's own best "
            "temperature, which low confidence does not flatten,",
            wu2020.matched_rise,
            "matched landscape rise",
        ),
        _flatter(
            "average-case-flatter-smaller-gap",
            "The flatter the adversarial loss is on average around the weights, the smaller the robust gap.",
            "the mean rise of the adversarial loss over random relative weight perturbations (average-case "
            "flatness of Stutz, Hein and Schiele 2021)",
            wu2020.average_case,
            "average-case flatness",
        ),
        _flatter(
            "worst-case-flatter-smaller-gap",
            "The flatter the adversarial loss is at worst near the weights, the smaller the robust gap.",
            "the rise of the adversarial loss at the worst small relative weight perturbation found "
            "(worst-case flatness of Stutz, Hein and Schiele 2021)",
            wu2020.worst_case,
            "worst-case flatness",
        ),
        _flatter(
            "smaller-eigenvalue-smaller-gap",
            "The smaller the largest curvature of the adversarial loss, the smaller the robust gap.",
            "the largest eigenvalue of the Hessian of the adversarial loss by weights in units of their "
            "filter's root mean square, at matched temperature: the plain one depends on the scale of the "
            "weights and of the logits,",
            wu2020.top_eigenvalue,
            "largest eigenvalue",
        ),
        _flatter(
            "smaller-trace-smaller-gap",
            "The smaller the mean curvature of the adversarial loss, the smaller the robust gap.",
            "the trace of the Hessian of the adversarial loss by weights in units of their filter's root "
            "mean square, at matched temperature,",
            wu2020.trace,
            "Hessian trace",
        ),
        _together(
            "gap-follows-landscape",
            "Along training, the robust gap grows as the adversarial weight-loss landscape gets sharper.",
            "the rise of the adversarial loss along random directions",
            wu2020.rise,
            "landscape rise",
        ),
        _together(
            "gap-follows-landscape-at-matched-temperature",
            "Along training, the robust gap grows as the landscape at matched temperature gets sharper.",
            "the rise of the adversarial loss at each network's own best temperature",
            wu2020.matched_rise,
            "matched landscape rise",
        ),
    )
}
"""Every claim by its id, in the order of the report."""


def check(study_folder: Path | str) -> list[Claim]:
    """Check every registered claim on the runs of a study.

    Args:
        study_folder: a folder with `study.json` and `runs/`. It is only read.

    Raises:
        StateError: this is no study folder, or `study.json` is damaged. A run that is missing, failed or
            damaged raises nothing: the claims that need it are inconclusive and name it.
    """
    evidence = StudyData.of(StudyFolder(study_folder))
    return [claim for hypothesis in CLAIMS.values() for claim in hypothesis.claims(evidence)]


def write(study_folder: Path | str) -> list[Claim]:
    """As `check`, and write `claims.json` into the study folder; returns the claims."""
    claims = check(study_folder)
    content = {"format": FORMAT, "claims": [claim.as_json() for claim in claims]}
    write_json(Path(study_folder) / "claims.json", content)
    return claims
