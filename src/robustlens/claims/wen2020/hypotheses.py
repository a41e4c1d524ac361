"""Claims of Wen, Li and Jia (ICML 2020): over the strengths of adversarial training."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.evidence import RunData
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck
from robustlens.claims.robustness import median_distance, robust_accuracy
from robustlens.claims.wen2020 import (
    activations,
    capacity,
    chain,
    intervention,
    mistakes,
    quantities,
    suddenness,
)
from robustlens.stats.bootstrap import Quantity

_hypothesis = partial(Hypothesis, paper="Wen et al. 2020", design=STRENGTH_SWEEP)


def _matched(estimator: Callable[..., Quantity], direction: Literal[-1, 1]) -> SensitivityCheck:
    """Check of a quantity that depends on confidence: the same at each network's own best temperature."""
    caution = "what the claim sees may be low confidence alone"
    return SensitivityCheck(
        "the same at matched temperature", partial(estimator, matched=True), direction, caution
    )


def _within(**options: Any) -> Callable[[RunData], Quantity]:
    """Share of images near the boundary, of other images, at another distance or in logits."""
    return partial(quantities.near_boundary, **options)


_spectra = quantities.spectrum_spread
_OTHER_OPERATORS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("std", "kernels", {"operator": quantities.KERNEL}),
    ("std over mean", "kernels", {"operator": quantities.KERNEL, "key": "std_over_mean"}),
    ("std", "kernels with BatchNorm folded", {"operator": quantities.KERNEL_FOLDED}),
    ("std", "the feature map with BatchNorm folded", {"operator": quantities.FEATURE_MAP_FOLDED}),
)
"""Matrices that a layer may stand for beside that on its feature map."""

HYPOTHESES = (
    _hypothesis(
        id="stronger-more-robust",
        statement="Training at a larger eps makes networks more robust.",
        quantity=(
            "share of test images that are right under every attack of the evaluation: the premise of "
            "all claims about strength, since the eps of training is only what was asked for"
        ),
        noun="robust accuracy",
        estimator=robust_accuracy,
        direction=1,
        sensitivity=(SensitivityCheck("median smallest adversarial distance", median_distance, 1),),
    ),
    _hypothesis(
        id="accuracy-falls",
        statement="Accuracy falls as adversarial training gets stronger.",
        quantity="share of test images classified right, unattacked",
        noun="test accuracy",
        estimator=quantities.accuracy,
        direction=-1,
    ),
    _hypothesis(
        id="less-confident",
        statement="Stronger adversarial training gives less confident networks.",
        quantity="mean of the largest class probability p_max on test images",
        noun="mean confidence",
        estimator=quantities.confidence,
        direction=-1,
        sensitivity=(_matched(quantities.confidence, -1),),
    ),
    _hypothesis(
        id="margins-concentrate",
        statement="Stronger adversarial training concentrates samples around the decision boundaries.",
        quantity=(
            "share of test images whose probability margin p_y - max p_i is within 0.2 of zero: the"
            " paper speaks of concentration around the boundary, and a spread (the std, in the "
            "note, or the interquartile range) is small as well where a sure network has all its "
            "margins near 1; logit margins depend on the scale of the logits"
        ),
        noun="share of images near the boundary",
        estimator=quantities.near_boundary,
        direction=1,
        sensitivity=(
            SensitivityCheck(
                "std of the probability margin",
                quantities.margin_spread,
                -1,
                "margins gather near the boundary without growing narrower as a whole",
            ),
            _matched(quantities.near_boundary, 1),
            SensitivityCheck("within 0.1", _within(tau=0.1), 1),
            SensitivityCheck("within 0.3", _within(tau=0.3), 1),
            SensitivityCheck(
                "logit margins within 0.41, the same with two classes",
                _within(kind="logit"),
                1,
                "logits grow with strength, or probabilities are low in many classes at once",
            ),
            SensitivityCheck(
                "std of the logit margin over the product of the layers' largest singular values",
                quantities.normalised_spread,
                -1,
                "the layers' gains fall faster than the margins",
            ),
        ),
    ),
    _hypothesis(
        id="training-margins-concentrate",
        statement="Stronger adversarial training concentrates training samples around the boundaries.",
        quantity="share of training images whose probability margin is within 0.2 of zero",
        noun="share of training images near the boundary",
        estimator=_within(split="train"),
        direction=1,
        sensitivity=(
            _matched(_within(split="train"), 1),
            SensitivityCheck("within 0.1", _within(split="train", tau=0.1), 1),
            SensitivityCheck("within 0.3", _within(split="train", tau=0.3), 1),
            SensitivityCheck(
                "logit margins within 0.41, the same with two classes",
                _within(split="train", kind="logit"),
                1,
            ),
        ),
    ),
    _hypothesis(
        id="smoother-under-attack",
        statement="Stronger adversarial training makes sudden changes under perturbation smaller.",
        quantity="mean fall of the probability margin of test images under one fixed PGD attack",
        noun="change under attack",
        estimator=quantities.change_under_attack,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "95 % quantile of the fall",
                suddenness.sudden_change,
                -1,
                "the mean falls, and what is sudden does not",
            ),
            _matched(quantities.change_under_attack, -1),
        ),
    ),
    *suddenness.HYPOTHESES,
    _hypothesis(
        id="feature-change-falls",
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
        estimator=quantities.feature_change,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "the same under random noise in the ball",
                partial(quantities.feature_change, moved="noise"),
                -1,
                "it is not smoother in all directions",
            ),
        ),
    ),
    _hypothesis(
        id="errors-indecisive",
        statement="Stronger adversarial training increases indecisive misclassifications.",
        quantity=(
            "share of all test images that are wrong with p_max - p_y < 0.2; as a share of the errors in the "
            "note, which rises as well where decisive errors vanish"
        ),
        noun="rate of indecisive errors",
        estimator=quantities.indecisive_rate,
        direction=1,
        sensitivity=(
            SensitivityCheck("share of the errors that are indecisive", quantities.indecisive_share, 1),
            _matched(quantities.indecisive_rate, 1),
        ),
    ),
    _hypothesis(
        id="right-answers-become-indecisive",
        statement="Stronger adversarial training turns right answers of the standard network into "
        "indecisive misclassifications.",
        quantity=(
            "share of test images that the standard network of the same seed gets right and this one wrong "
            "with p_max - p_y < 0.2, minus the share that went the other way"
        ),
        noun="right answers that became indecisive",
        estimator=mistakes.became_indecisive,
        direction=1,
        sensitivity=(
            SensitivityCheck(
                "share of the lost right answers that are indecisive, over that of the standard network's "
                "mistakes",
                mistakes.lost_indecisively,
                1,
            ),
        ),
    ),
    _hypothesis(
        id="train-test-margins-closer",
        statement="Stronger adversarial training brings the margins of training and test images closer.",
        quantity="Wasserstein-1 distance between the probability margins of training and of test images",
        noun="train-test margin distance",
        estimator=quantities.margin_distance,
        direction=-1,
        sensitivity=(_matched(quantities.margin_distance, -1),),
    ),
    _hypothesis(
        id="ramp-gap-shrinks",
        statement="The gap of the ramp loss shrinks as adversarial training gets stronger.",
        quantity=(
            "test minus training ramp risk, the mean of 1 - M cut to 0..1, M the probability margin: "
            "the paper's ramp loss with gamma = 1, the largest margin that there is; on logit margins "
            "it would depend on their scale"
        ),
        noun="ramp gap",
        estimator=quantities.ramp_gap,
        direction=-1,
        sensitivity=(_matched(quantities.ramp_gap, -1),),
    ),
    _hypothesis(
        id="loss-gap-shrinks",
        statement="The loss gap shrinks as adversarial training gets stronger.",
        quantity="test minus training cross entropy, unattacked",
        noun="loss gap",
        unit="nats",
        estimator=quantities.loss_gap,
        direction=-1,
        sensitivity=(_matched(quantities.loss_gap, -1),),
    ),
    _hypothesis(
        id="error-gap-grows",
        statement="The error gap grows as adversarial training gets stronger.",
        quantity="test minus training error, unattacked",
        noun="error gap",
        estimator=quantities.error_gap,
        direction=1,
    ),
    *activations.HYPOTHESES,
    _hypothesis(
        id="singular-spread-falls",
        statement="Stronger adversarial training lowers the spread of singular values in most layers.",
        quantity=(
            "for each layer, the standard deviation of the singular values of the matrix that it is on its "
            "feature map (which borders, says the note), as the paper has it; it depends on the scale of the "
            "weights, so std over mean is in the note, as are the weights laid flat (kernels) and BatchNorm "
            "folded in; values are medians over layers"
        ),
        noun="std of singular values",
        unit="%",
        estimator=_spectra,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "std over mean of singular values",
                partial(_spectra, key="std_over_mean"),
                -1,
                "the raw spread moves with the scale of the weights, not with the shape of the spectrum",
            ),
            *(
                SensitivityCheck(f"{words} of singular values of {name}", partial(_spectra, **options), -1)
                for words, name, options in _OTHER_OPERATORS
            ),
        ),
    ),
    *capacity.HYPOTHESES,
    *chain.HYPOTHESES,
    *intervention.HYPOTHESES,
)
"""In the order of the report."""
