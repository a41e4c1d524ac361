"""Quantities of work that followed Wen et al. and Wu et al., as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are in
`hypotheses`.
"""

import numpy as np

from robustlens.claims.evidence import LEAST_EXAMPLES, RunData
from robustlens.claims.robustness import distances, suite_of
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, divide, mean
from robustlens.stats.intervals import LEVEL
from robustlens.stats.ranks import weighted_spearman

BINS = 15
"""Bins of the calibration error, with as many images each."""
_SHUFFLES = 400


def margin_consistency(run: RunData) -> Quantity:
    """Rank correlation, over right test images, of the logit margin and the smallest adversarial distance.

    Over the images that were both explained and evaluated. A distance beyond the largest radius searched
    counts as that radius, so that such images are ties.
    """
    _, (margin, correct) = run.measured("margins", "test_index", "test_logit", "test_correct")
    _, distance, conditions = distances(run)
    explained = np.sort(run.array("explanation", "margins", "test_index"))
    evaluated = np.sort(run.array("evaluation", "test", "index"))
    common, of_margin, of_distance = np.intersect1d(explained, evaluated, return_indices=True)
    if len(common) < LEAST_EXAMPLES:
        raise Unusable(f"{run.name} has {len(common)} images that were both explained and evaluated")
    examples = Examples.at("test", common)[0]
    right = correct[of_margin] > 0
    if right.sum() < LEAST_EXAMPLES:
        raise Unusable(f"{run.name} is right on {right.sum()} images; at least {LEAST_EXAMPLES} are needed")
    x, y = margin[of_margin], distance[of_distance]
    if not (np.ptp(x[right]) and np.ptp(y[right])):
        raise Unusable(f"{run.name}: all margins or distances are the same; nothing to correlate")
    return Quantity(lambda w: weighted_spearman(w * right, x, y), (examples,), conditions=conditions)


def class_difference(run: RunData, *, key: str = "clean") -> Quantity:
    """Standard deviation over classes of the accuracy of each; `key` is "clean" or "robust".

    Its floor is that of a network whose right answers do not depend on the class.
    """
    examples, right, member = _by_class(run, key)

    def of(weights: Array) -> Array:
        return divide((weights * right) @ member, weights @ member).std(1)

    def floor() -> float:
        rng = run.study.bootstrap.generator(f"classes {examples.key}")
        shuffled = rng.permuted(np.broadcast_to(right, (_SHUFFLES, examples.n)), axis=1)
        return float(np.quantile(divide(shuffled @ member, member.sum(0)).std(1), LEVEL))

    return Quantity(of, (examples,), conditions=_conditions(run, key), floor=floor)


def largest_class_difference(run: RunData, *, key: str = "clean") -> Quantity:
    """Accuracy of the best class minus that of the worst."""
    examples, right, member = _by_class(run, key)

    def of(weights: Array) -> Array:
        return np.ptp(divide((weights * right) @ member, weights @ member), axis=1)

    return Quantity(of, (examples,), conditions=_conditions(run, key))


def calibration_error(run: RunData, *, matched: bool = False) -> Quantity:
    """Expected calibration error on test images: over 15 bins of equal mass, |accuracy - confidence|, mean.

    A finite sample makes it too large, in every network about alike; the bootstrap takes its bias out of the
    interval of an effect, and the floor is that of a network that is calibrated.
    """
    prefix = "matched_" if matched else ""
    keys = f"test_{prefix}confidence", "test_correct"
    examples, (confidence, correct) = run.measured("margins", "test_index", *keys)
    order = np.argsort(confidence, kind="stable")
    starts = np.unique(np.arange(BINS) * examples.n // BINS)
    gap = (correct - confidence)[order]

    def of(weights: Array) -> Array:
        return np.abs(np.add.reduceat(weights[:, order] * gap, starts, axis=1)).sum(1)

    def floor() -> float:
        rng = run.study.bootstrap.generator(f"calibrated {examples.key}")
        drawn = rng.random((_SHUFFLES, examples.n)) < confidence[order]
        sums = np.add.reduceat((drawn - confidence[order]) / examples.n, starts, axis=1)
        return float(np.quantile(np.abs(sums).sum(1), LEVEL))

    return Quantity(of, (examples,), floor=floor)


def gradient(run: RunData, *, key: str) -> Quantity:
    """Mean over test images of "gini", "hoyer", "contrast" or "foreground", of the measure `gradients`."""
    examples, (values,) = run.measured("gradients", "test_index", f"test_{key}")
    return mean(examples, values)


def _by_class(run: RunData, key: str) -> tuple[Examples, Array, Array]:
    """Test images, which are right, and the class of each as a column of 0 and 1, for classes with images."""
    examples, right = run.evaluated("test", key)
    _, labels = run.evaluated("test", "labels")
    classes = np.unique(labels)
    if len(classes) < 2:
        raise Unusable(f"{run.name} was evaluated on images of one class")
    return examples, right, (labels[:, None] == classes).astype(np.float64)


def _conditions(run: RunData, key: str) -> str:
    return suite_of(run) if key == "robust" else ""
