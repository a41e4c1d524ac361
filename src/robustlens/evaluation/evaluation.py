"""Evaluations image by image: masks, and the numbers that they give."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from robustlens.registry import named
from robustlens.results import CurvePoint, Flag, ReplacedLayer, SplitResult
from robustlens.stats.intervals import Interval, difference, mean_of, wilson
from robustlens.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation, image by image. All masks are boolean (n,) tensors on the CPU.

    Attributes:
        threat: the threat model. labels, predictions, loss: (n,) labels, clean predictions, clean CE.
        clean: right without an attack.
        by_attack: for each attack, in order: right, and still right after it *and all before it*. Each
            attack ran on the survivors of those before, so the last one is the worst case.
        attacked: number of images that each attack was run on.
        distance: (n,) distance of the nearest misclassified point that was reached, in the threat's norm; 0
            for a clean mistake, infinite where there was none.
        curve: right, and no misclassified point reached within each radius, by radius, ascending; empty
            unless asked for.
        flags: reasons to doubt the numbers. notes: choices the attacks made for this model.
        suites: the attacks of each suite that was asked for by name.
        seconds: time by attack.
        certifier, lower, certified: with `certify`, the method, lower bounds of the smallest margin within
            the threat (NaN for a clean mistake), and the mask of the images that are proven robust.
        x_adv: with `save_adversarial`, the images with an adversarial one in place of each that was broken;
            otherwise None.
        replaced: layers that adaptive attacks went round; empty unless asked for.
    """

    threat: ThreatModel
    labels: Tensor
    predictions: Tensor
    loss: Tensor
    clean: Tensor
    by_attack: dict[str, Tensor]
    attacked: dict[str, int]
    distance: Tensor
    curve: dict[float, Tensor]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]
    suites: dict[str, tuple[str, ...]]
    seconds: dict[str, float]
    x_adv: Tensor | None = None
    replaced: tuple[ReplacedLayer, ...] = ()
    certifier: str | None = None
    lower: Tensor | None = None
    certified: Tensor | None = None

    @property
    def robust(self) -> Tensor:
        """Right under every attack: over the whole set, so a clean mistake is not robust."""
        return list(self.by_attack.values())[-1] if self.by_attack else self.clean

    @property
    def broken(self) -> dict[str, int]:
        """Number of images that each attack broke first."""
        survivors = [int(mask.sum()) for mask in (self.clean, *self.by_attack.values())]
        counts = [before - after for before, after in pairwise(survivors)]
        return dict(zip(self.by_attack, counts, strict=True))

    def interval(self, mask: str = "robust") -> Interval:
        """Wilson interval of "clean", "robust", "certified", an attack, or a suite that was asked for.

        Raises:
            ConfigError: there is nothing of this name.
        """
        masks = {"clean": self.clean, "robust": self.robust, **self.by_attack}
        masks |= {name: self.by_attack[parts[-1]] for name, parts in self.suites.items()}
        if self.certified is not None:
            masks["certified"] = self.certified
        return rate(named(masks, mask, "evaluation.interval"))

    def result(self) -> SplitResult:
        """The numbers and arrays as files keep them for one split."""
        curve = [(eps, rate(mask)) for eps, mask in self.curve.items()]
        return SplitResult(
            n=len(self.labels),
            clean=self.interval("clean"),
            robust=self.interval("robust"),
            loss=mean_of(self.loss.numpy()),
            by_attack={name: rate(mask) for name, mask in self.by_attack.items()},
            attacked=self.attacked,
            broken=self.broken,
            seconds=self.seconds,
            certified={} if self.certifier is None else {self.certifier: self.interval("certified")},
            curve=tuple(CurvePoint(eps, point.value, point.low, point.high) for eps, point in curve),
            flags=self.flags,
            notes=self.notes,
            replaced=self.replaced,
            arrays=self.arrays(),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The per-image arrays as `evaluation.safetensors` keeps them for one split."""
        names = ("labels", "clean", "robust", "loss", "predictions", "distance")
        arrays = {name: getattr(self, name).numpy() for name in names}
        arrays |= {name: mask.numpy() for name, mask in self.by_attack.items()}
        if self.certified is not None and self.lower is not None:
            arrays |= {"certified": self.certified.numpy(), "certified_margin": self.lower.numpy()}
        if self.curve:
            arrays["curve"] = torch.stack(list(self.curve.values())).numpy()
            arrays["curve_eps"] = np.array(list(self.curve))
        return arrays


def rate(mask: Tensor) -> Interval:
    """Share of True with its Wilson interval."""
    return wilson(int(mask.sum()), len(mask))


def gaps(train: SplitResult, test: SplitResult) -> dict[str, Interval]:
    """Gaps between training and test images; each is positive where training looks better.

    error: test error minus training error, clean. loss: the same for clean cross entropy, in nats. robust:
    training minus test robust accuracy, both re-measured at w, in eval mode, with the same attacks.
    """
    return {
        "error": difference(train.clean, test.clean),
        "loss": difference(test.loss, train.loss),
        "robust": difference(train.robust, test.robust),
    }
