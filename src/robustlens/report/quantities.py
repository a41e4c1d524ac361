"""Single numbers of a network that the first screen of the report compares, with their intervals.

Each function takes what is known of a checkpoint and returns None where that has nothing to say.
"""

import math

import numpy as np

from robustlens.report.data import CheckpointReport, ReportData
from robustlens.stats.intervals import Interval, mean_of, wilson
from robustlens.stats.misclassification import TAU, outcomes

ALPHA = 0.5
"""Place on the landscape at which its rise is read, where all networks were measured there."""


def confidence(checkpoint: CheckpointReport) -> Interval | None:
    """Mean of the largest probability on test images."""
    return _mean(checkpoint, "margins", "test_confidence")


def indecisive_errors(checkpoint: CheckpointReport) -> Interval | None:
    """Share of the test images that were lost by less than `TAU`."""
    correct, margin = (checkpoint.array("margins", f"test_{name}") for name in ("correct", "probability"))
    if correct is None or margin is None or correct.shape != margin.shape:
        return None
    return wilson(int((outcomes(correct, margin, TAU) == 1).sum()), margin.size) if margin.size else None


def near_boundary(checkpoint: CheckpointReport) -> Interval | None:
    """Share of test images whose probability margin lies within `TAU` of the decision boundary."""
    margin = _finite(checkpoint, "margins", "test_probability")
    return wilson(int((np.abs(margin) < TAU).sum()), margin.size) if margin.size else None


def margin_spread(checkpoint: CheckpointReport) -> Interval | None:
    """Standard deviation of the probability margin on test images."""
    margin = _finite(checkpoint, "margins", "test_probability")
    return Interval(float(margin.astype(np.float64).std())) if margin.size > 1 else None


def change_under_attack(checkpoint: CheckpointReport) -> Interval | None:
    """Mean fall of the probability margin of test images under the fixed attack."""
    return _mean(checkpoint, "smoothness", "probability_change")


def layer_spreads(checkpoint: CheckpointReport, measure: str) -> dict[str, float]:
    """Standard deviation of each layer of "spectrum" or "activations", where it is a number."""
    layers = checkpoint.at(measure, "layers")
    names = map(str, layers) if isinstance(layers, dict) else ()
    spreads = {name: checkpoint.number(measure, "layers", name, "std") for name in names}
    return {name: one.value for name, one in spreads.items() if one and math.isfinite(one.value)}


def mean_spread(measure: str, checkpoint: CheckpointReport) -> Interval | None:
    """Mean over the layers of `layer_spreads`; layers are no sample, so it has no interval."""
    spreads = layer_spreads(checkpoint, measure)
    return Interval(sum(spreads.values()) / len(spreads)) if spreads else None


def landscape_rise(alpha: float, checkpoint: CheckpointReport) -> Interval | None:
    """Mean rise of the adversarial test loss at `alpha` either way, over directions and images."""
    alphas, heights = (checkpoint.array("landscape", name) for name in ("alpha", "test_loss"))
    if alphas is None or heights is None or heights.ndim != 3 or len(heights) != len(alphas):
        return None
    there, here = np.isclose(np.abs(alphas), alpha), np.isclose(alphas, 0)
    if not there.any() or not here.any():
        return None
    rise = heights[there].astype(np.float64).mean((0, 1)) - heights[here].astype(np.float64).mean((0, 1))
    return mean_of(rise[np.isfinite(rise)]) if np.isfinite(rise).any() else None


def common_alpha(data: ReportData) -> float | None:
    """`ALPHA`, or else the largest |alpha| of every landscape; None where they have none in common."""
    grids = [
        {round(abs(float(value)), 9) for value in alphas}
        for run in data.runs
        if (alphas := run.array("landscape", "alpha")) is not None
    ]
    common = {value for value in set.intersection(*grids) if value > 0} if grids else set()
    return ALPHA if ALPHA in common else max(common, default=None)


def _mean(checkpoint: CheckpointReport, measure: str, key: str) -> Interval | None:
    values = _finite(checkpoint, measure, key)
    return mean_of(values) if values.size else None


def _finite(checkpoint: CheckpointReport, measure: str, key: str) -> np.ndarray:
    array = checkpoint.array(measure, key)
    return np.empty(0) if array is None else array[np.isfinite(array)]
