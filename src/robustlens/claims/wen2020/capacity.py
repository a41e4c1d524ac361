"""Capacity, and the difference between classes, which Wen et al. expect robustness to cost.

Their slides: adversarial training regularizes networks "by hurting the capacity of the hypothesis space", and
"a NN might sacrifice its ability to distinguish inter-class difference".
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.evidence import RunData
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck
from robustlens.claims.wen2020.quantities import FEATURE_MAP, KERNEL, spectrum_spread
from robustlens.stats.bootstrap import Array, Quantity, divide, mean

LEAST_VALUE = 1e-6
"""Singular values below this share of the layer's largest count as this share: float32 resolves no less."""


def training_error(run: RunData) -> Quantity:
    """Share of training images that are classified wrong, unattacked."""
    examples, right = run.evaluated("train", "clean")
    return mean(examples, 1 - right)


def volume(run: RunData, *, operator: Sequence[str] = FEATURE_MAP) -> Quantity:
    """For each layer, the geometric mean of its singular values: their logarithms summed, over their number.

    It is the exponential of that, since a relative change of logarithms would depend on their unit.
    """
    return _of_values(run, operator, lambda logs: float(np.exp(logs.mean())))


def evenness(run: RunData) -> Quantity:
    """For each layer, geometric over arithmetic mean of its singular values; 1 where all are equal."""
    return _of_values(run, FEATURE_MAP, lambda logs: float(np.exp(logs.mean()) / np.exp(logs).mean()))


def class_scatter(run: RunData, *, split: str = "test") -> Quantity:
    """Scatter of the features between classes over that within: the trace ratio.

    Class means are those of all images: their change within a resample is of second order.
    """
    keys = (f"{split}_scatter_{name}" for name in ("within", "total"))
    examples, (within, total) = run.measured("margins", f"{split}_index", *keys)

    def of(weights: Array) -> Array:
        inside = weights @ within
        return divide(weights @ total - inside, inside)

    return Quantity(of, (examples,), caveat="the means of the classes are not resampled")


def _of_values(run: RunData, operator: Sequence[str], number: Callable[[Array], float]) -> Quantity:
    """A number of the logarithms of each layer's singular values; `operator` is `FEATURE_MAP` or `KERNEL`."""
    spread = spectrum_spread(run, operator=operator)  # which refuses what is known too coarsely
    prefix = "kernel/" if operator == KERNEL else ""
    logs = []
    for layer in spread.layers:
        values = run.array("explanation", "spectrum", f"{prefix}{layer}").astype(np.float64)
        with np.errstate(divide="ignore"):
            logs.append(np.log(np.maximum(values, LEAST_VALUE * values.max())))
    numbers = np.array([[number(own) for own in logs]])
    return Quantity(lambda: numbers, layers=spread.layers, conditions=spread.conditions, caveat=spread.caveat)


_hypothesis = partial(Hypothesis, paper="Wen et al. 2020", design=STRENGTH_SWEEP)

HYPOTHESES = (
    _hypothesis(
        id="training-error-grows",
        statement="Stronger adversarial training hurts the capacity: the error on training images grows.",
        quantity="share of training images that are classified wrong, unattacked",
        noun="training error",
        estimator=training_error,
        direction=1,
    ),
    _hypothesis(
        id="singular-volume-falls",
        statement="Stronger adversarial training hurts the capacity: most layers keep less volume.",
        quantity=(
            "for each layer, the geometric mean of its singular values, which is the exponential of the sum "
            "of their logarithms over their number; of the matrix that the layer is on its feature map; "
            "values below 1e-6 of the largest count as that; medians over layers"
        ),
        noun="geometric mean of singular values",
        unit="%",
        estimator=volume,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "geometric over arithmetic mean of singular values",
                evenness,
                -1,
                "the scale of the weights falls, not the evenness of the spectrum",
            ),
            SensitivityCheck(
                "geometric mean of singular values of kernels", partial(volume, operator=KERNEL), -1
            ),
        ),
    ),
    _hypothesis(
        id="class-scatter-falls",
        statement="Stronger adversarial training sacrifices the ability to distinguish classes.",
        quantity=(
            "scatter of the features of test images between classes over that within them (the ratio of "
            "the traces of the two scatter matrices), features being what the last linear layer reads"
        ),
        noun="between- over within-class scatter",
        estimator=class_scatter,
        direction=-1,
        sensitivity=(
            SensitivityCheck("the same on training images", partial(class_scatter, split="train"), -1),
        ),
    ),
)
"""In the order of the report."""
