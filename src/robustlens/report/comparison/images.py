"""Which images of two runs are the same, and numbers of both on them."""

from dataclasses import dataclass

import numpy as np

from robustlens.report.comparison.documents import ImageComparison, QuantityChange
from robustlens.report.text.wording import SPLITS, attack_name, suite_name
from robustlens.results import EvaluationResult, SplitResult
from robustlens.results.values import Arrays
from robustlens.stats.intervals import Inference, Interval, difference, mean_of, wilson
from robustlens.stats.paired import PairedCounts, mean_difference

CLEAN, ROBUST, LOSS = "clean accuracy", "robust accuracy", "clean cross entropy"
"""Names of the quantities; that of a robust accuracy goes on with its attacks."""


@dataclass(frozen=True)
class Pairing:
    """Rows (m,) of two sets of images at which the same images stand; none, and why, where they differ."""

    a: np.ndarray
    b: np.ndarray
    why: str = ""

    def __bool__(self) -> bool:
        return len(self.a) > 0


def pair(a: Arrays, b: Arrays, *, same_data: bool, index: str = "index", labels: str = "") -> Pairing:
    """The images that stand in both, by their place in the data set.

    Args:
        a: arrays of one.
        b: arrays of the other.
        same_data: whether their data sets have the same fingerprint.
        index: name of the array of places.
        labels: name of the array of labels, which are compared where it is given.
    """
    none = np.array([], dtype=np.int64)
    if not same_data:
        return Pairing(none, none, "the two data sets are not the same files")
    if index not in a or index not in b:
        return Pairing(none, none, "an evaluation does not say which images it was made on")
    _, rows_a, rows_b = np.intersect1d(a[index], b[index], return_indices=True)
    if not len(rows_a):
        return Pairing(none, none, "no image is in both evaluations")
    if labels and not np.array_equal(a[labels][rows_a], b[labels][rows_b]):
        return Pairing(none, none, "the labels of the same images differ")
    return Pairing(rows_a, rows_b)


def compare_images(name: str, a: EvaluationResult, b: EvaluationResult) -> ImageComparison:
    """Accuracies and losses of both on one split."""
    one, other = a.splits[name], b.splits[name]
    same_data = bool(a.provenance.data) and a.provenance.data == b.provenance.data
    rows = pair(one.arrays, other.arrays, same_data=same_data, labels="labels")
    masks = {CLEAN: ("clean", "clean")} | _robust(a, b)
    changes = [_of_masks(title, keys, one, other, rows) for title, keys in masks.items()]
    changes.append(_of_losses(one, other, rows))
    return ImageComparison(SPLITS[name], one.n, other.n, len(rows.a), bool(rows), rows.why, tuple(changes))


def gap_changes(test: ImageComparison, train: ImageComparison) -> tuple[QuantityChange, ...]:
    """Changes of the error, robust and loss gap: b minus a."""
    here = {change.quantity: change for change in test.changes}
    shared = [change for change in train.changes if change.quantity in here]
    robust = [change for change in shared if change.quantity.startswith(ROBUST)]
    chosen = {"error gap": CLEAN, "robust gap": robust[-1].quantity if robust else "", "loss gap": LOSS}
    there = {change.quantity: change for change in shared}
    return tuple(_gap(title, there[name], here[name]) for title, name in chosen.items() if name in there)


def _gap(title: str, train: QuantityChange, test: QuantityChange) -> QuantityChange:
    """QuantityChange of one gap: training minus test for accuracies, test minus training for a loss."""
    first, second = (test, train) if train.unit == "nats" else (train, test)
    a, b = difference(first.a, second.a), difference(first.b, second.b)
    return QuantityChange(title, train.unit, a, b, _independent(second.difference, first.difference))


def _robust(a: EvaluationResult, b: EvaluationResult) -> dict[str, tuple[str, str]]:
    """Titles of the robust accuracies that compare, and the masks of either that they are shares of.

    An accuracy after an attack counts all attacks before it, so it compares only where these are the same.
    Under unlike threats none does.
    """
    if a.threat != b.threat:
        return {}
    shared: dict[str, tuple[str, str]] = {}
    columns = {after: title for title, after in a.columns.items()}
    for place, attack in enumerate(a.attacks):
        if attack in columns and a.attacks[: place + 1] == b.attacks[: place + 1]:
            title = columns[attack]
            shown = suite_name(title) if title in a.suites else attack_name(title)
            shared[f"{ROBUST}, {shown}"] = (attack, attack)
    if a.attacks != b.attacks:
        shared[f"{ROBUST}, every attack of each"] = ("robust", "robust")
    return shared


def _of_masks(
    title: str, keys: tuple[str, str], one: SplitResult, other: SplitResult, rows: Pairing
) -> QuantityChange:
    a, b = one.arrays[keys[0]].astype(bool), other.arrays[keys[1]].astype(bool)
    if not rows:
        rates = wilson(int(a.sum()), len(a)), wilson(int(b.sum()), len(b))
        return QuantityChange(title, "share", *rates, _independent(*rates))
    a, b = a[rows.a], b[rows.b]
    counts = PairedCounts.of(a, b)
    rates = wilson(int(a.sum()), len(a)), wilson(int(b.sum()), len(b))
    return QuantityChange(title, "share", *rates, counts.difference(), counts)


def _of_losses(one: SplitResult, other: SplitResult, rows: Pairing) -> QuantityChange:
    return compare_means(LOSS, "nats", one.arrays["loss"], other.arrays["loss"], rows)


def compare_means(title: str, unit: str, a: np.ndarray, b: np.ndarray, rows: Pairing) -> QuantityChange:
    """Means (n,) of both, over the images that stand in both where there are any."""
    if not rows:
        means = mean_of(a), mean_of(b)
        return QuantityChange(title, unit, *means, _independent(*means))
    a, b = a[rows.a], b[rows.b]
    return QuantityChange(title, unit, mean_of(a), mean_of(b), mean_difference(a, b))


def _independent(a: Interval, b: Interval) -> Inference:
    """The difference b - a of independent estimates; no test stands behind its interval."""
    change = difference(b, a)
    return Inference(change.value, change.low, change.high)
