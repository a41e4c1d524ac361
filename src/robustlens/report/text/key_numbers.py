"""The numbers of each measure that are read first: in a summary, and where two runs are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from robustlens.results import Measurement

Reader = Callable[[Measurement], float | None]


@dataclass(frozen=True)
class KeyNumber:
    """One number of a measure.

    Attributes:
        title: what it is. unit: in which it is counted; empty for a ratio.
        read: takes it out of the measurement; None where it is not there.
        array, index: arrays of the measurement that hold it image by image, and which images these are; empty
            for a number that is no mean over images.
    """

    title: str
    unit: str
    read: Reader
    array: str = ""
    index: str = ""


def at(*path: str) -> Reader:
    """The number at a path of the value."""
    return lambda measurement: measurement.number(*path)


def over_layers(key: str) -> Reader:
    """Mean over the layers of one of their numbers."""

    def read(measurement: Measurement) -> float | None:
        layers = measurement.at("layers")
        names = layers if isinstance(layers, Mapping) else {}
        values = [value for name in names if (value := measurement.number("layers", name, key)) is not None]
        return fmean(values) if values else None

    return read


KEY_NUMBERS: Mapping[str, tuple[KeyNumber, ...]] = {
    "spectrum": (
        KeyNumber("spread of the singular values, mean over layers", "", over_layers("std")),
        KeyNumber("the same over their mean", "", over_layers("std_over_mean")),
    ),
    "jacobian": (
        KeyNumber("largest singular value of the Jacobian", "logits per unit of image", at("mean_largest")),
    ),
    "activations": (
        KeyNumber("norm of the logits", "", at("layers", "logits", "mean"), "logits", "index"),
        KeyNumber("spread of the activation norms, mean over layers", "", over_layers("std")),
        KeyNumber("the same over their mean", "", over_layers("std_over_mean")),
    ),
    "margins": (
        KeyNumber("confidence on test images", "", at("test", "confidence"), "test_confidence", "test_index"),
        KeyNumber(
            "probability margin on test images",
            "",
            at("test", "mean_probability"),
            "test_probability",
            "test_index",
        ),
        KeyNumber(
            "share of the test images that are indecisive errors, margin within 0.2",
            "",
            at("test", "indecisive_errors", "0.2"),
        ),
    ),
    "smoothness": (
        KeyNumber(
            "fall of the margin under attack", "logits", at("mean_margin_change"), "margin_change", "index"
        ),
        KeyNumber(
            "change of the logits under attack, relative",
            "",
            at("layers", "logits", "attack"),
            "attack/logits",
            "index",
        ),
    ),
    "gradients": (
        KeyNumber("Gini index of the input gradient", "", at("mean_gini"), "test_gini", "test_index"),
        KeyNumber(
            "correlation of the input gradient with the contrast of the image",
            "",
            at("mean_contrast"),
            "test_contrast",
            "test_index",
        ),
    ),
    "landscape": (
        KeyNumber("rise of the adversarial loss at 0.5 of the filters' norms", "nats", at("rise", "0.5")),
    ),
    "flatness": (
        KeyNumber("rise of the adversarial loss around the weights, average", "nats", at("average", "loss")),
        KeyNumber("rise of the adversarial loss around the weights, worst", "nats", at("worst", "loss")),
    ),
    "curvature": (KeyNumber("largest eigenvalue of the Hessian", "", at("top_eigenvalue")),),
    "sharpness": (KeyNumber("relative sharpness of the loss at clean images", "", at("clean", "sharpness")),),
    "bound": (KeyNumber("log10 of the bound's complexity term", "", at("log10", "complexity_term")),),
}
"""By measure. A measure without a row is shown in full by --all and in `explanation.json`."""
