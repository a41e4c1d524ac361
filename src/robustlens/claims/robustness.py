"""Measured robustness: the eps of training is what was asked for, robust accuracy what came of it."""

import json
from collections.abc import Sequence

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.estimates import Estimate, estimate
from robustlens.claims.evidence import RunData
from robustlens.claims.missing import Missing
from robustlens.results.values import plain
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, mean
from robustlens.stats.ranks import spearman
from robustlens.stats.samples import weighted_quantile


def robust_accuracy(run: RunData) -> Quantity:
    """Share of test images that are right under every attack of the evaluation."""
    return mean(*run.evaluated("test", "robust"), conditions=suite_of(run))


def median_distance(run: RunData) -> Quantity:
    """Median over test images of the distance to the nearest misclassified point found; 0 for clean mistakes.

    Distances beyond the largest radius of the evaluation's curve count as that radius.
    """
    examples, distance, conditions = distances(run)
    return Quantity(
        lambda weights: weighted_quantile(weights, distance, 0.5), (examples,), conditions=conditions
    )


def distances(run: RunData) -> tuple[Examples, Array, str]:
    """Test images, their smallest adversarial distances, cut at the largest radius searched, and that radius.

    Raises:
        Missing: the evaluation has no curve, and so no search for the nearest misclassified point.
    """
    try:
        radii = run.array("evaluation", "test", "curve_eps")
    except Missing as reason:
        raise type(reason)(str(reason), remedies.curve(run.study.record)) from None
    largest = float(radii.max())
    examples, distance = run.evaluated("test", "distance", at_most=largest)
    return examples, distance, f"{run.evaluation.threat.norm} up to {largest:g}"


def suite_of(run: RunData) -> str:
    """Threat and attacks of an evaluation, for comparing like with like."""
    result = run.evaluation
    return json.dumps(plain([result.threat, result.attacks]), sort_keys=True)


def against_measured_robustness(estimates: Sequence[Estimate]) -> str:
    """Rank correlation of a quantity with measured robust accuracy, over strengths and seeds, in words.

    A quantity with one number per layer counts by its median.
    """
    what = "rank correlation with measured robust accuracy, in place of training strength"
    try:
        robust, missing = estimate(robust_accuracy, [one.run for one in estimates])
    except Unusable as reason:
        return f"{what}: {reason}"
    if missing:
        return f"{what}: not measured"
    x = np.array([float(one.value) for one in robust])
    rho = spearman(x, np.array([float(np.median(one.value)) for one in estimates]))
    return f"{what}: {'all are equal' if rho is None else f'{rho:+.2f}'}"
