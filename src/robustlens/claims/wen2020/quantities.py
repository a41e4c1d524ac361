"""What Wen, Li and Jia (ICML 2020, arXiv 2011.07478) speak of, as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are registered in
`robustlens.claims`. What depends on confidence is also there with `matched=True`: of logits that are divided
by the network's own best temperature, so that a network which is only less sure of itself does not count.
"""

import math

import numpy as np

from robustlens.claims.evidence import RunData
from robustlens.claims.verdict import Unusable
from robustlens.stats import bootstrap as st
from robustlens.stats.bootstrap import Array, Examples, Quantity
from robustlens.stats.misclassification import outcomes

TAU = 0.2
"""An image is near a decision boundary, and an error indecisive, if |p_y - max p_i| is below this."""
LEAST_ERRORS = 30
"""With fewer errors their shares are too coarse to resample."""


def accuracy(source: RunData) -> Quantity:
    """Share of test images that are classified right, unattacked."""
    examples, (right,) = source.examples("evaluation", "test/index", "test/clean")
    return st.mean(examples, right)


def confidence(source: RunData, *, matched: bool = False) -> Quantity:
    """Mean of the largest class probability on test images."""
    return st.mean(*_of_margins(source, "test", "confidence", matched))


def near_boundary(source: RunData, *, matched: bool = False) -> Quantity:
    """Share of test images whose probability margin is within `TAU` of the decision boundary (zero)."""
    examples, margin = _of_margins(source, "test", "probability", matched)
    return st.mean(examples, (np.abs(margin) < TAU).astype(np.float64))


def margin_spread(source: RunData) -> Quantity:
    """Standard deviation of the probability margin on test images."""
    return st.standard_deviation(*_of_margins(source, "test", "probability"))


def normalised_spread(source: RunData) -> Quantity:
    """Standard deviation of the logit margin on test images over the product of all layers' largest gains.

    The gain of a layer is its largest singular value, as `spectrum` has it. The product bounds how fast a
    plain feed-forward network changes its logits; beside shortcuts it is a scale only, and bounds nothing.
    """
    layers = source.measure("spectrum")["layers"]
    gains = [float(layer.get("max") or 0.0) for layer in layers.values()]
    if min(gains, default=0.0) <= 0:
        raise Unusable(f"{source.name} has a layer without a largest singular value above zero")
    examples, margin = _of_margins(source, "test", "logit")
    return st.standard_deviation(examples, margin * math.exp(-sum(map(math.log, gains))))


def change_under_attack(source: RunData, *, matched: bool = False) -> Quantity:
    """Mean fall of the probability margin of test images under the fixed PGD attack."""
    key = f"smoothness/{_prefix(matched)}probability_change"
    examples, (change,) = source.examples("explanation", "smoothness/index", key)
    return st.mean(examples, change, conditions=_attack(source))


def feature_change(source: RunData, *, moved: str = "attack") -> Quantity:
    """For each layer, mean over test images of the relative change of what it reads.

    `moved` says by what: "attack", the fixed PGD attack, or "noise", random noise in the same ball that is
    the same for every network.
    """
    examples, changes, layers = _layers(source, f"smoothness/{moved}", "smoothness/index")
    return Quantity(lambda weights: weights @ changes, (examples,), layers, conditions=_attack(source))


def indecisive_share(source: RunData, *, matched: bool = False) -> Quantity:
    """Share of the errors on test images that are indecisive (p_max - p_y < `TAU`)."""
    examples, wrong, indecisive = _errors(source, matched)
    if wrong.sum() < LEAST_ERRORS:
        raise Unusable(f"{source.name} makes {wrong.sum():.0f} errors; at least {LEAST_ERRORS} are needed")
    return st.ratio(examples, indecisive, wrong)


def indecisive_rate(source: RunData) -> Quantity:
    """Share of all test images that are indecisive errors."""
    examples, _, indecisive = _errors(source)
    return st.mean(examples, indecisive)


def margin_distance(source: RunData, *, matched: bool = False) -> Quantity:
    """Wasserstein-1 distance between the probability margins of training and test images."""
    train, test = (_of_margins(source, split, "probability", matched) for split in ("train", "test"))
    return st.wasserstein(train, test, source.bootstrap)


def ramp_gap(source: RunData, *, matched: bool = False) -> Quantity:
    """Test minus training ramp risk: mean of 1 - M for probability margins M, cut to 0..1 (gamma = 1)."""
    sides = (_of_margins(source, split, "probability", matched) for split in ("test", "train"))
    test, train = ((examples, 1 - np.clip(margin, 0, 1)) for examples, margin in sides)
    return st.difference(test, train)


def loss_gap(source: RunData, *, matched: bool = False) -> Quantity:
    """Test minus training cross entropy, unattacked, in nats; matched: on the images of the explanation."""
    if matched:
        test, train = (_of_margins(source, split, "loss", matched) for split in ("test", "train"))
    else:
        test, train = (_evaluated(source, split, "loss") for split in ("test", "train"))
    return st.difference(test, train)


def error_gap(source: RunData) -> Quantity:
    """Test minus training error, unattacked: training minus test accuracy."""
    return st.difference(_evaluated(source, "train", "clean"), _evaluated(source, "test", "clean"))


def activation_variation(source: RunData) -> Quantity:
    """For each layer, std over mean of the norms of its output over test images."""
    examples, norms, layers = _layers(source, "activations", "activations/index")

    def of(weights: Array) -> Array:
        return st.divide(st.weighted_std(weights, norms), weights @ norms)

    return Quantity(of, (examples,), layers)


def activation_spread(source: RunData) -> Quantity:
    """For each layer, the standard deviation of the norms of its output over test images."""
    examples, norms, layers = _layers(source, "activations", "activations/index")
    return Quantity(lambda weights: st.weighted_std(weights, norms), (examples,), layers)


def spectrum_spread(source: RunData) -> Quantity:
    """For each layer with two singular values or more, their standard deviation."""
    return _spectrum(source, "std")


def spectrum_relative_spread(source: RunData) -> Quantity:
    """For each layer with two singular values or more, their standard deviation over their mean."""
    return _spectrum(source, "std_over_mean")


def _prefix(matched: bool) -> str:
    return "matched_" if matched else ""


def _of_margins(source: RunData, split: str, name: str, matched: bool = False) -> tuple[Examples, Array]:
    """One number for each image, of the measure `margins`."""
    keys = f"margins/{split}_index", f"margins/{split}_{_prefix(matched)}{name}"
    examples, (values,) = source.examples("explanation", *keys)
    return examples, values


def _attack(source: RunData) -> str:
    """The attack of the measure `smoothness`, in words."""
    how = source.measure("smoothness")
    return f"eps {how.get('eps')}, {how.get('steps')} steps"


def _errors(source: RunData, matched: bool = False) -> tuple[Examples, Array, Array]:
    """Test images, which are wrong, and which of these are indecisive (as 0 and 1)."""
    keys = "margins/test_correct", f"margins/test_{_prefix(matched)}probability"
    examples, (right, margin) = source.examples("explanation", "margins/test_index", *keys)
    became = outcomes(right, margin, TAU)
    return examples, (became > 0).astype(np.float64), (became == 1).astype(np.float64)


def _evaluated(source: RunData, split: str, name: str) -> tuple[Examples, Array]:
    examples, (values,) = source.examples("evaluation", f"{split}/index", f"{split}/{name}")
    return examples, values


def _layers(source: RunData, prefix: str, index: str) -> tuple[Examples, Array, tuple[str, ...]]:
    """Test images, what is saved of them for each layer (n, layers), names of the layers.

    An activation that two layers read (a convolution and its block's shortcut) is saved under both names; it
    counts once.
    """
    layers = source.layers(prefix)
    examples, columns = source.examples("explanation", index, *(f"{prefix}/{layer}" for layer in layers))
    once = {column.tobytes(): place for place, column in reversed(list(enumerate(columns)))}
    kept = sorted(once.values())
    return examples, np.stack([columns[place] for place in kept], axis=1), tuple(layers[p] for p in kept)


def _spectrum(source: RunData, key: str) -> Quantity:
    layers = source.measure("spectrum")["layers"]
    kept = {name: layer[key] for name, layer in layers.items() if layer.get("count", 2) >= 2}
    if not kept:
        raise Unusable(f"{source.name} has no layer with two singular values or more")
    # JSON has null where a number was not finite.
    values = np.array([[np.nan if value is None else float(value) for value in kept.values()]])
    return Quantity(lambda: values, layers=tuple(kept))
