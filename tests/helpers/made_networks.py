"""Networks that were never trained: logits of every image follow from a few traits, and all numbers from them.

The generator is seeded, so a network is the same however often it is made; the images are the same for all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from robustlens.results import EpochRecord, MonitorRecord
from robustlens.stats.intervals import Interval

EPS = 0.1
ATTACKS = {"fgsm": 1.25, "pgd-20": 1.0, "cw-20": 0.94}
"""Weakness of each attack: how much further than PGD-20 it must move an image to break it."""
SUITE = {"apgd-ce": 0.96, "apgd-t": 0.9, "fab-t": 0.9, "square": 1.2}
"""The same for the attacks of the standard suite."""
SEARCH = {"min-norm": 0.88}
SEARCH_RADIUS = 2 * EPS
"""Largest distance at which the minimum-norm search looks."""
LAYERS = {"conv1": 9 * 196, "conv2": 16 * 196, "conv3": 32 * 49, "conv4": 32 * 49, "fc1": 128, "fc2": 10}
"""Layers of the small CNN and how many singular values each has here."""
CLASSES = 10

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Member:
    """One method at one strength."""

    method: str
    objective: str
    eps: float
    awp: bool = False

    @property
    def label(self) -> str:
        """As the study shows it."""
        return self.method if self.eps == 0 else f"{self.method} {self.eps:g}"


@dataclass(frozen=True)
class Traits:
    """Traits that training gave to one network; all the files follow from these numbers.

    Attributes:
        scale: typical logit margin.
        centre, centre_train: mean margin on test and on training images, in units of `scale`; their
            difference is the overfitting.
        slope: loss of margin per unit of eps under attack.
        spread: std/mean of singular values and of activation norms.
        curvature: rise of the adversarial loss at alpha = 1.
    """

    scale: float
    centre: float
    centre_train: float
    slope: float
    spread: float
    curvature: float


def images_of(rng_seed: int, split: str, n: int) -> Arrays:
    """Indices, labels and difficulties of the images of one split."""
    rng = np.random.default_rng([rng_seed, 7, len(split)])
    return {
        "index": np.sort(rng.choice(10 * n, n, replace=False)).astype(np.int64),
        "labels": rng.integers(0, CLASSES, n),
        # The same spread of difficulty in both splits: what differs is what training did, not the draw.
        "ease": norm.ppf((rng.permutation(n) + 0.5) / n),
    }


def network(traits: Traits, images: Arrays, split: str, rng: np.random.Generator) -> Arrays:
    """Logits of one network on one split, and everything that follows from them."""
    n = len(images["labels"])
    centre = traits.centre_train if split == "train" else traits.centre
    margin = traits.scale * (centre + 0.95 * images["ease"] + 0.3 * rng.standard_normal(n))
    others = 0.25 * traits.scale * rng.standard_normal((n, CLASSES))
    rows = np.arange(n)
    others[rows, images["labels"]] = -np.inf
    logits = others.copy()
    logits[rows, images["labels"]] = others.max(1) + margin
    net = outputs(logits, images["labels"])
    net["radius"] = net["margin_logit"] / traits.slope * np.exp(0.1 * rng.standard_normal(n))
    return net


def outputs(logits: np.ndarray, labels: np.ndarray) -> Arrays:
    """Confidence, margins, correctness, predictions and loss that follow from logits (n, classes)."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    net: Arrays = {"logits": logits, "confidence": probabilities.max(1)}
    for name, values in (("logit", logits), ("probability", probabilities)):
        rest = values.copy()
        rest[rows, labels] = -np.inf
        net[f"margin_{name}"] = values[rows, labels] - rest.max(1)
    net["correct"] = logits.argmax(1) == labels
    net["predictions"] = logits.argmax(1)
    net["loss"] = np.log(np.exp(shifted).sum(1)) - shifted[rows, labels]
    return net


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that fits best, by search."""
    best = minimize_scalar(lambda t: outputs(logits / np.exp(t), labels)["loss"].mean(), bounds=(-5, 5))
    return float(np.exp(best.x))


def rate(mask: np.ndarray) -> Interval:
    """Share of true values with Wilson's 95 % interval, written out apart from the package's."""
    n, z = len(mask), 1.959963984540054
    share = int(mask.sum()) / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def mean(values: np.ndarray) -> Interval:
    """A mean with its normal interval."""
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean of `a` minus mean of `b`, with the normal interval for independent samples."""
    a, b = a.astype(float), b.astype(float)
    value = float(a.mean() - b.mean())
    half = 1.96 * float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return Interval(value, value - half, value + half)


def epochs_of(
    final: dict[str, tuple[float, float]], epochs: int, member: Member, rng: np.random.Generator
) -> list[EpochRecord]:
    """Epochs that lead to the `final` (clean, robust) accuracies of each split."""
    cost = 2.0 if member.eps == 0 else 9.0 + 0.8 * member.awp + 2.0 * (member.objective == "trades")
    records: list[EpochRecord] = []
    best_score = -1.0
    for epoch in range(1, epochs + 1):
        done = 1 - np.exp(-4 * epoch / epochs)
        noise = 0.01 * rng.standard_normal(4)
        train, validation = (
            MonitorRecord(
                n=512,
                clean=float(np.clip(final[split][0] * done + noise[2 * i], 0, 1)),
                robust=float(np.clip(final[split][1] * done + noise[2 * i + 1], 0, 1)),
                loss=float("nan"),
                measured="at w, eval mode, no augmentation",
            )
            for i, split in enumerate(("train", "test"))
        )
        score = validation.robust if member.eps else validation.clean
        records.append(
            EpochRecord(
                epoch=epoch,
                lr=float(0.1 * np.sin(np.pi * epoch / (epochs + 1))),
                seconds=float(cost + 0.2 * rng.random()),
                loss=float(2.3 * (1 - 0.8 * done)),
                perturbed=member.awp and epoch > 1,
                train=train,
                validation=validation,
                best=score > best_score,
            )
        )
        best_score = max(best_score, score)
    return records
