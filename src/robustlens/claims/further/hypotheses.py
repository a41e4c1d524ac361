"""Claims of work that followed the two papers: over the strengths of adversarial training."""

from functools import partial

from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.further import quantities
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck

_hypothesis = partial(Hypothesis, design=STRENGTH_SWEEP)

HYPOTHESES = (
    _hypothesis(
        id="margins-rank-distances",
        paper="Ngnawe et al. 2024",
        statement="Logit margins rank the distances to the decision boundary better in robust networks.",
        quantity=(
            "rank correlation, over test images that are right, of the logit margin and the smallest "
            "adversarial distance that the search behind the curve of the evaluation found"
        ),
        noun="rank correlation of margin and distance",
        estimator=quantities.margin_consistency,
        direction=1,
    ),
    _hypothesis(
        id="class-differences-grow",
        paper="Lee et al. 2024",
        statement="Stronger adversarial training widens the difference between classes.",
        quantity=(
            "standard deviation over classes of the unattacked accuracy of each on test images; of robust "
            "accuracy in the note, since a network that is not robust is so in all classes alike"
        ),
        noun="spread of accuracy over classes",
        estimator=quantities.class_difference,
        direction=1,
        sensitivity=(
            SensitivityCheck("best minus worst class", quantities.largest_class_difference, 1),
            SensitivityCheck(
                "the same of robust accuracy",
                partial(quantities.class_difference, key="robust"),
                1,
                "classes differ more in accuracy, and less in robustness",
            ),
        ),
    ),
    _hypothesis(
        id="better-calibrated",
        paper="robustlens",
        statement="Networks are better calibrated on clean images the more strongly they are trained "
        "adversarially.",
        quantity=(
            "expected calibration error on unattacked test images, 15 bins of as many images each "
            "(Guo et al. 2017, whose bins are of equal width)"
        ),
        noun="calibration error",
        estimator=quantities.calibration_error,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "the same at matched temperature",
                partial(quantities.calibration_error, matched=True),
                -1,
                "one temperature makes up for it",
            ),
        ),
    ),
    _hypothesis(
        id="gradients-sparser",
        paper="Bhusal et al. 2026",
        statement="Stronger adversarial training makes input gradients sparser.",
        quantity=(
            "mean over test images of the Gini index of the gradient of the loss by the image "
            "(Chalasani et al. 2020)"
        ),
        noun="Gini index of input gradients",
        estimator=partial(quantities.gradient, key="gini"),
        direction=1,
        sensitivity=(SensitivityCheck("Hoyer's sparsity", partial(quantities.gradient, key="hoyer"), 1),),
    ),
    _hypothesis(
        id="gradients-nearer-to-the-object",
        paper="Tsipras et al. 2019",
        statement="Stronger adversarial training brings input gradients closer to what the image shows.",
        quantity=(
            "mean over test images of the correlation, over pixels, of the gradient's size with the contrast "
            "of the image (our reading: the paper shows pictures)"
        ),
        noun="correlation of gradient and contrast",
        estimator=partial(quantities.gradient, key="contrast"),
        direction=1,
        sensitivity=(
            SensitivityCheck(
                "share on pixels that are not black, beyond the share of these pixels",
                partial(quantities.gradient, key="foreground"),
                1,
                "edges beside the object count as well",
            ),
        ),
    ),
)
"""In the order of the report."""
