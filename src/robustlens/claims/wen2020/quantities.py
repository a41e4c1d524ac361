"""Quantities of Wen, Li and Jia (ICML 2020, arXiv 2011.07478), as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are in
`hypotheses`. Quantities that depend on confidence take `matched=True`: they are then of logits divided by the
network's own best temperature, so that a network which is only less sure of itself does not count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustlens.claims.evidence import RunData
from robustlens.claims.missing import Missing
from robustlens.results.explanation import LARGEST_ERROR, density_error, leaves_batch_norm_out, log_gain
from robustlens.stats.bootstrap import (
    Array,
    Examples,
    Quantity,
    Unusable,
    difference,
    mean,
    ratio,
    standard_deviation,
    wasserstein,
)
from robustlens.stats.misclassification import TAU, logit_margin, outcomes

FEATURE_MAP, FEATURE_MAP_FOLDED = ("layers",), ("folded",)
"""Operators of layers, by their places in the measure `spectrum`: what the weight does to a feature map."""
KERNEL, KERNEL_FOLDED = ("kernel", "layers"), ("kernel", "folded")
"""The weight laid flat, (outputs, inputs * kernel), which is what `capacity` holds in training."""
LEAST_ERRORS = 30
"""With fewer errors their shares are too coarse to resample."""


def accuracy(run: RunData) -> Quantity:
    """Share of test images that are classified right, unattacked."""
    return mean(*run.evaluated("test", "clean"))


def confidence(run: RunData, *, matched: bool = False) -> Quantity:
    """Mean of the largest class probability on test images."""
    return mean(*_of_margins(run, "test", "confidence", matched))


def near_boundary(
    run: RunData, *, matched: bool = False, split: str = "test", tau: float = TAU, kind: str = "probability"
) -> Quantity:
    """Share of images whose margin is within `tau` of the decision boundary (zero).

    `kind` is "probability", or "logit": within 2 artanh(tau) then, the same with two classes.
    """
    examples, margin = _of_margins(run, split, kind, matched)
    width = logit_margin(tau) if kind == "logit" else tau
    return mean(examples, (np.abs(margin) < width).astype(np.float64))


def margin_spread(run: RunData) -> Quantity:
    """Standard deviation of the probability margin on test images."""
    return standard_deviation(*_of_margins(run, "test", "probability"))


def normalised_spread(run: RunData) -> Quantity:
    """Standard deviation of the logit margin on test images over the product of all layers' largest gains.

    The gain of a layer is its largest singular value, with its BatchNorm folded in, as often as it runs in a
    pass (`log_gain`).
    """
    spectrum = run.measurement("spectrum")
    if leaves_batch_norm_out(spectrum):
        raise Unusable(
            f"{run.name} has BatchNorm, and its spectrum no layer with one folded in; "
            "measure spectrum with batch_norm: fold"
        )
    gain = log_gain(spectrum)
    if gain is None:
        raise Unusable(f"{run.name} has a layer without a largest singular value above zero")
    examples, margin = _of_margins(run, "test", "logit")
    return standard_deviation(examples, margin * math.exp(-gain))


def change_under_attack(run: RunData, *, matched: bool = False) -> Quantity:
    """Mean fall of the probability margin of test images under the fixed PGD attack."""
    key = f"{_prefix(matched)}probability_change"
    examples, (change,) = run.measured("smoothness", "index", key)
    return mean(examples, change, conditions=attack_of(run))


def feature_change(run: RunData, *, moved: str = "attack") -> Quantity:
    """For each layer, mean over test images of the relative change of what it reads.

    `moved` says by what: "attack", the fixed PGD attack, or "noise", random noise in the same ball that is
    the same for every network.
    """
    examples, changes, layers, _ = by_layer(run, "smoothness", moved)
    return Quantity(lambda weights: weights @ changes, (examples,), layers, conditions=attack_of(run))


def indecisive_share(run: RunData, *, matched: bool = False) -> Quantity:
    """Share of the errors on test images that are indecisive (p_max - p_y < `TAU`)."""
    examples, wrong, indecisive = _errors(run, matched)
    if wrong.sum() < LEAST_ERRORS:
        raise Unusable(f"{run.name} makes {wrong.sum():.0f} errors; at least {LEAST_ERRORS} are needed")
    return ratio(examples, indecisive, wrong)


def indecisive_rate(run: RunData, *, matched: bool = False) -> Quantity:
    """Share of all test images that are indecisive errors."""
    examples, _, indecisive = _errors(run, matched)
    return mean(examples, indecisive)


def margin_distance(run: RunData, *, matched: bool = False) -> Quantity:
    """Wasserstein-1 distance between the probability margins of training and test images."""
    train, test = (_of_margins(run, split, "probability", matched) for split in ("train", "test"))
    return wasserstein(train, test, run.study.bootstrap)


def ramp_gap(run: RunData, *, matched: bool = False) -> Quantity:
    """Test minus training ramp risk: mean of 1 - M for probability margins M, cut to 0..1 (gamma = 1)."""
    sides = (_of_margins(run, split, "probability", matched) for split in ("test", "train"))
    test, train = ((examples, 1 - np.clip(margin, 0, 1)) for examples, margin in sides)
    return difference(test, train)


def loss_gap(run: RunData, *, matched: bool = False) -> Quantity:
    """Test minus training cross entropy, unattacked, in nats; matched: on the images of the explanation."""
    if matched:
        test, train = (_of_margins(run, split, "loss", matched) for split in ("test", "train"))
    else:
        test, train = (run.evaluated(split, "loss") for split in ("test", "train"))
    return difference(test, train)


def error_gap(run: RunData) -> Quantity:
    """Test minus training error, unattacked: training minus test accuracy."""
    return difference(run.evaluated("train", "clean"), run.evaluated("test", "clean"))


def spectrum_spread(run: RunData, *, operator: Sequence[str] = FEATURE_MAP, key: str = "std") -> Quantity:
    """For each layer with two singular values or more, their standard deviation, or that over their mean.

    Args:
        run: of which.
        operator: `FEATURE_MAP`, `FEATURE_MAP_FOLDED`, `KERNEL` or `KERNEL_FOLDED`.
        key: "std" or "std_over_mean".
    """
    counts, numbers = (spectrum_numbers(run, name, operator) for name in ("count", key))
    several = {
        layer: number
        for layer, number in numbers.items()
        if (2 if (count := counts[layer]) is None else count) >= 2
    }
    if not numbers and operator[-1] == "folded":
        raise Unusable(f"{run.name} has no BatchNorm to fold")
    if not several:
        raise Unusable(f"{run.name} has no layer with two singular values or more")
    layers = run.measurement("spectrum").at(*operator)
    errors = {name: error for name in several if (error := density_error(layers[name])) is not None}
    for name, error in errors.items():
        if not error <= LARGEST_ERROR:
            raise Unusable(
                f"{run.name}: the singular values of layer {name} are known by their density, their std to "
                f"{100 * error:.2g} %; a claim needs {100 * LARGEST_ERROR:g} %: raise the draws of spectrum"
            )
    values = np.array([[np.nan if number is None else number for number in several.values()]])
    named = operator_of(run, operator)
    known = ", ".join([named, f"{', '.join(errors)} by density"] if errors else [named])
    return Quantity(lambda: values, layers=tuple(several), conditions=known, caveat=f"operator: {named}")


def operator_of(run: RunData, operator: Sequence[str] = FEATURE_MAP) -> str:
    """Name of the matrices whose singular values were taken, as findings give it."""
    if operator[0] == KERNEL[0]:
        name = "kernel"
    else:
        name = f"feature map, {run.measurement('spectrum').conditions.get('operator', 'unknown')} borders"
    return f"{name}, BatchNorm folded" if operator[-1] == "folded" else name


def spectrum_numbers(
    run: RunData, key: str, operator: Sequence[str] = FEATURE_MAP
) -> dict[str, float | None]:
    """One number of each layer's singular values; None where there is none, or it was not finite.

    Raises:
        Missing: `spectrum` was measured without this operator.
    """
    spectrum = run.measurement("spectrum")
    layers = spectrum.at(*operator)
    if layers is None:
        raise Missing(f"{run.name} has no {'/'.join(operator)} in its measure spectrum")
    return {layer: spectrum.number(*operator, layer, key) for layer in layers}


def _prefix(matched: bool) -> str:
    return "matched_" if matched else ""


def _of_margins(run: RunData, split: str, name: str, matched: bool = False) -> tuple[Examples, Array]:
    """One number for each image, of the measure `margins`."""
    examples, (values,) = run.measured("margins", f"{split}_index", f"{split}_{_prefix(matched)}{name}")
    return examples, values


def attack_of(run: RunData) -> str:
    """The attack of the measure `smoothness`, in words."""
    conditions = run.measurement("smoothness").conditions
    return f"eps {conditions.get('eps')}, {conditions.get('steps')} steps"


def _errors(run: RunData, matched: bool = False) -> tuple[Examples, Array, Array]:
    """Test images, which are wrong, and which of these are indecisive (as 0 and 1)."""
    keys = "test_correct", f"test_{_prefix(matched)}probability"
    examples, (right, margin) = run.measured("margins", "test_index", *keys)
    outcome = outcomes(right, margin, TAU)
    return examples, (outcome > 0).astype(np.float64), (outcome == 1).astype(np.float64)


@dataclass(frozen=True)
class Repeats:
    """The arrays of a measure that are those of an array before them, in every run that has them all.

    In a single run that may be chance: where a network has died, all are 0.
    """

    measure: str
    keys: tuple[str, ...]

    def __call__(self, runs: Sequence[RunData]) -> frozenset[str]:
        """Keys of the arrays that repeat another one."""
        pairs = [pair for run in runs if (pair := self._equal(run)) is not None]
        return frozenset(later for later, _ in frozenset.intersection(*pairs)) if pairs else frozenset()

    def _equal(self, run: RunData) -> frozenset[tuple[str, str]] | None:
        """Each pair of equal arrays, the later one first; None of a run without some of them."""
        try:
            contents = [run.array("explanation", self.measure, key).tobytes() for key in self.keys]
        except Missing:
            return None
        return frozenset(
            (later, earlier)
            for place, later in enumerate(self.keys)
            for before, earlier in enumerate(self.keys[:place])
            if contents[place] == contents[before]
        )


def by_layer(
    run: RunData, measure: str, kind: str = "", *, index: str = "index", beside: Sequence[str] = ()
) -> tuple[Examples, Array, tuple[str, ...], list[Array]]:
    """Images, the number of each in each layer (n, layers), names of the layers, and other arrays.

    An activation that two layers read (a convolution and its block's shortcut) is saved under both names; it
    counts once (`Repeats`).

    Args:
        run: of which.
        measure: its name.
        kind: begins the keys of the layers' arrays, if the measure has several kinds.
        index: the array of image numbers.
        beside: other arrays over the same images.
    """
    layers = run.layers(measure, kind)
    prefix = f"{kind}/" if kind else ""
    keys = (*beside, *(f"{prefix}{layer}" for layer in layers))
    examples, arrays = run.measured(measure, index, *keys)
    others, columns = arrays[: len(beside)], arrays[len(beside) :]
    repeats = run.study.once(Repeats(measure, keys[len(beside) :]))
    kept = [place for place, key in enumerate(keys[len(beside) :]) if key not in repeats]
    names = tuple(layers[place] for place in kept)
    return examples, np.stack([columns[place] for place in kept], axis=1), names, others
