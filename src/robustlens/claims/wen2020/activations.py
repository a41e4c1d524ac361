"""Norms of activations, whose variance Wen et al. expect robustness to lower, in several readings."""

from functools import partial

import numpy as np

from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.evidence import RunData
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck
from robustlens.claims.wen2020.quantities import KERNEL, KERNEL_FOLDED, Repeats, by_layer, spectrum_numbers
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, divide, standard_deviation
from robustlens.stats.samples import weighted_std, weighted_within_std

POST, PRE, READ = "post-activation", "pre-activation", ""
"""What the non-linearity after a layer writes, what the layer writes, and what the next layer reads."""
LOGITS = "logits"


def spread(
    run: RunData, *, of: str = POST, split: str = "test", relative: bool = False, within: bool = False
) -> Quantity:
    """For each layer, the standard deviation over images of the norm of its activation.

    Args:
        run: of which.
        of: `POST`, `PRE`, or `READ` (of test images).
        split: of the images.
        relative: over the mean norm, which is free of the layer's scale.
        within: within classes, the root of the mean squared distance to the mean of the image's class.
    """
    examples, norms, layers, labels = _norms(run, of, split)

    def of_weights(weights: Array) -> Array:
        own = weighted_within_std(weights, norms, labels) if within else weighted_std(weights, norms)
        return divide(own, weights @ norms) if relative else own

    return Quantity(of_weights, (examples,), layers)


def spread_at_unit_gains(run: RunData) -> Quantity:
    """As `spread`, over the product of the largest singular values of the kernels up to the layer.

    BatchNorm is folded into the kernels where there is one. In a plain network of ReLU without biases that is
    the spread after every weight is divided by its spectral norm; beside shortcuts it is a scale only.

    Raises:
        Unusable: a layer runs several times in a pass or a BatchNorm is in none, so that what lies before
            each layer is not known; or a largest singular value is not above zero.
    """
    _check_order(run)
    examples, norms, layers, _ = _norms(run, POST, "test")
    gains = spectrum_numbers(run, "max", KERNEL) | spectrum_numbers(run, "max", KERNEL_FOLDED)
    called = run.layers("activations", PRE)
    unknown = [name for name in called if not (gains.get(name) or 0.0) > 0]
    if unknown:
        raise Unusable(f"{run.name} has no largest singular value above zero of layer {unknown[0]}")
    logs = dict(zip(called, np.cumsum([np.log(gains[name] or 0.0) for name in called]), strict=True))
    scaled = norms * np.exp([-logs[layer] for layer in layers])
    return Quantity(lambda weights: weighted_std(weights, scaled), (examples,), layers)


def _check_order(run: RunData) -> None:
    """Raise `Unusable` where the layers, each once, are not all that an activation went through."""
    spectrum = run.measurement("spectrum")
    unfolded = spectrum.at("unfolded")
    if unfolded:
        raise Unusable(f"{run.name} has BatchNorm {unfolded[0]}, which is folded into no layer")
    repeated = [name for name in spectrum.at("layers") or () if spectrum.number("calls", name)]
    if repeated:
        times = spectrum.number("calls", repeated[0])
        raise Unusable(f"{run.name} runs {repeated[0]} {times:.0f} times in a pass, each behind other gains")


def spread_of_logits(run: RunData) -> Quantity:
    """The standard deviation over test images of the norm of the logits."""
    examples, (norms,) = run.measured("activations", "index", LOGITS)
    return standard_deviation(examples, norms)


def _norms(run: RunData, of: str, split: str) -> tuple[Examples, Array, tuple[str, ...], Array]:
    """Images, norms (n, layers) of all activations but the logits, names of the layers, and labels."""
    before, joined = ("train/", "train_") if split == "train" else ("", "")
    beside = (f"{before}{LOGITS}", f"{joined}label")
    kind = f"{before}{of}"
    examples, norms, layers, (_, labels) = by_layer(
        run, "activations", kind, index=f"{joined}index", beside=beside
    )
    keys = [f"{kind}/{layer}" if kind else layer for layer in layers]
    kept = [
        place
        for place, key in enumerate(keys)
        if not run.study.once(Repeats("activations", (beside[0], key)))
    ]
    if not kept:
        raise Unusable(f"{run.name} has no layer before the logits")
    return examples, norms[:, kept], tuple(layers[place] for place in kept), labels


READINGS = (
    SensitivityCheck(
        "std over mean", partial(spread, relative=True), -1, "it is the scale of the activations that falls"
    ),
    SensitivityCheck("std within classes", partial(spread, within=True), -1),
    SensitivityCheck("std over mean within classes", partial(spread, relative=True, within=True), -1),
    SensitivityCheck(
        "std over the product of the largest singular values of the kernels up to the layer",
        spread_at_unit_gains,
        -1,
        "the gains of the layers fall faster",
    ),
    SensitivityCheck("std of W x + b (pre-activation)", partial(spread, of=PRE), -1),
    SensitivityCheck("std over mean of W x + b", partial(spread, of=PRE, relative=True), -1),
    SensitivityCheck("std of what layers read, after shortcut and pooling", partial(spread, of=READ), -1),
    SensitivityCheck("std of the logits", spread_of_logits, -1),
    SensitivityCheck("std on training images", partial(spread, split="train"), -1),
    SensitivityCheck("std over mean on training images", partial(spread, split="train", relative=True), -1),
)
"""What the claim may mean beside the raw variance of post-activations: each is a second look."""

HYPOTHESES = (
    Hypothesis(
        id="activation-spread-falls",
        paper="Wen et al. 2020",
        statement="Stronger adversarial training lowers the variance of activation norms in most layers.",
        quantity=(
            "for each layer, the standard deviation over test images of the norm of its activation, which is "
            "what the non-linearity after it writes, before shortcut and pooling; raw, as the paper has it: "
            "it depends on the scale of the layers, so other readings (std over mean, within classes, equal "
            "gains of the weights, W x + b, logits, training images) are in the note; values are medians "
            "over layers"
        ),
        noun="std of activation norms",
        unit="%",
        estimator=spread,
        direction=-1,
        design=STRENGTH_SWEEP,
        sensitivity=READINGS,
    ),
)
"""In the order of the report."""
