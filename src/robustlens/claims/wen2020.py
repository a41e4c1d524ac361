"""What Wen, Li and Jia (ICML 2020, arXiv 2011.07478) speak of, as functions of a run.

Each function takes a `Source` (one run) and returns a `Quantity`. The claims made of them are registered in
`robustlens.claims`.
"""

import numpy as np

from robustlens.claims import statistics as st
from robustlens.claims.evidence import Source
from robustlens.claims.findings import Unusable
from robustlens.claims.statistics import Array, Examples, Quantity

TAU = 0.2
"""An image is near a decision boundary, and an error indecisive, if |p_y - max p_i| is below this."""
LEAST_ERRORS = 30
"""With fewer errors their shares are too coarse to resample."""


def accuracy(source: Source) -> Quantity:
    """Share of test images that are classified right, unattacked."""
    examples, (right,) = source.examples("evaluation", "test/index", "test/clean")
    return st.mean(examples, right)


def confidence(source: Source) -> Quantity:
    """Mean of the largest class probability on test images."""
    examples, (largest,) = source.examples("explanation", "margins/test_index", "margins/test_confidence")
    return st.mean(examples, largest)


def near_boundary(source: Source) -> Quantity:
    """Share of test images whose probability margin is within `TAU` of the decision boundary (zero)."""
    examples, margin = _margin(source, "test")
    return st.mean(examples, (np.abs(margin) < TAU).astype(np.float64))


def margin_spread(source: Source) -> Quantity:
    """Standard deviation of the probability margin on test images."""
    return st.standard_deviation(*_margin(source, "test"))


def change_under_attack(source: Source) -> Quantity:
    """Mean fall of the probability margin of test images under the fixed PGD attack."""
    key = "smoothness/probability_change"
    examples, (change,) = source.examples("explanation", "smoothness/index", key)
    how = source.measure("smoothness")
    return st.mean(examples, change, conditions=f"eps {how.get('eps')}, {how.get('steps')} steps")


def indecisive_share(source: Source) -> Quantity:
    """Share of the errors on test images that are indecisive (p_max - p_y < `TAU`)."""
    examples, wrong, indecisive = _errors(source)
    if wrong.sum() < LEAST_ERRORS:
        raise Unusable(f"{source.name} makes {wrong.sum():.0f} errors; at least {LEAST_ERRORS} are needed")
    return st.ratio(examples, indecisive, wrong)


def indecisive_rate(source: Source) -> Quantity:
    """Share of all test images that are indecisive errors."""
    examples, _, indecisive = _errors(source)
    return st.mean(examples, indecisive)


def margin_distance(source: Source) -> Quantity:
    """Wasserstein-1 distance between the probability margins of training and test images."""
    return st.wasserstein(_margin(source, "train"), _margin(source, "test"), source.bootstrap)


def loss_gap(source: Source) -> Quantity:
    """Test minus training cross entropy, unattacked, in nats."""
    return st.difference(_evaluated(source, "test", "loss"), _evaluated(source, "train", "loss"))


def error_gap(source: Source) -> Quantity:
    """Test minus training error, unattacked: training minus test accuracy."""
    return st.difference(_evaluated(source, "train", "clean"), _evaluated(source, "test", "clean"))


def activation_variation(source: Source) -> Quantity:
    """For each layer, std over mean of the norms of its output over test images."""
    examples, norms, layers = _activations(source)

    def of(weights: Array) -> Array:
        return st.divide(st.weighted_std(weights, norms), weights @ norms)

    return Quantity(of, (examples,), layers)


def activation_spread(source: Source) -> Quantity:
    """For each layer, the standard deviation of the norms of its output over test images."""
    examples, norms, layers = _activations(source)
    return Quantity(lambda weights: st.weighted_std(weights, norms), (examples,), layers)


def spectrum_spread(source: Source) -> Quantity:
    """For each layer with two singular values or more, their standard deviation."""
    return _spectrum(source, "std")


def spectrum_relative_spread(source: Source) -> Quantity:
    """For each layer with two singular values or more, their standard deviation over their mean."""
    return _spectrum(source, "std_over_mean")


def _margin(source: Source, split: str) -> tuple[Examples, Array]:
    keys = f"margins/{split}_index", f"margins/{split}_probability"
    examples, (margin,) = source.examples("explanation", *keys)
    return examples, margin


def _errors(source: Source) -> tuple[Examples, Array, Array]:
    """Test images, which are wrong, and which of these are indecisive (as 0 and 1)."""
    keys = "margins/test_correct", "margins/test_probability"
    examples, (right, margin) = source.examples("explanation", "margins/test_index", *keys)
    wrong = right == 0
    return examples, wrong.astype(np.float64), (wrong & (-margin < TAU)).astype(np.float64)


def _evaluated(source: Source, split: str, name: str) -> tuple[Examples, Array]:
    examples, (values,) = source.examples("evaluation", f"{split}/index", f"{split}/{name}")
    return examples, values


def _activations(source: Source) -> tuple[Examples, Array, tuple[str, ...]]:
    """Test images, norms (n, layers), names of the layers.

    An activation that two layers read (a convolution and its block's shortcut) is saved under both names; it
    counts once.
    """
    layers = source.layers("activations")
    keys = (f"activations/{layer}" for layer in layers)
    examples, norms = source.examples("explanation", "activations/index", *keys)
    once = {column.tobytes(): place for place, column in reversed(list(enumerate(norms)))}
    kept = sorted(once.values())
    return examples, np.stack([norms[place] for place in kept], axis=1), tuple(layers[p] for p in kept)


def _spectrum(source: Source, key: str) -> Quantity:
    layers = source.measure("spectrum")["layers"]
    kept = {name: layer[key] for name, layer in layers.items() if layer.get("count", 2) >= 2}
    if not kept:
        raise Unusable(f"{source.name} has no layer with two singular values or more")
    # JSON has null where a number was not finite.
    values = np.array([[np.nan if value is None else float(value) for value in kept.values()]])
    return Quantity(lambda: values, layers=tuple(kept))
