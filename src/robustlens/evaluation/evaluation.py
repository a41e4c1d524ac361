"""What an evaluation found: masks image by image, and the numbers that they give."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlens.reliability import Flag
from robustlens.stats.intervals import Interval, difference, mean_of, wilson
from robustlens.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, image by image. All masks are boolean (n,) tensors on the CPU.

    Attributes:
        threat: the threat model. labels, predictions, loss: (n,) labels, clean predictions, clean CE.
        clean: right without an attack.
        by_attack: for each attack, in order: right, and still right after it *and all before it*. Each
            attack ran on the survivors of those before, so the last one is the worst case.
        distance: (n,) distance of the nearest misclassified point found, in the threat's norm; 0 for a
            clean mistake, infinite where none was found.
        curve: right, and no misclassified point found within each radius, by radius, ascending; empty
            unless asked for.
        flags: reasons not to believe the numbers. notes: choices the attacks made for this model.
        suites: the attacks of each suite that was asked for by name.
        seconds: time by attack.
        x_adv: with `save_adversarial`, the images with an adversarial one in place of each that fell;
            otherwise None.
    """

    threat: ThreatModel
    labels: Tensor
    predictions: Tensor
    loss: Tensor
    clean: Tensor
    by_attack: dict[str, Tensor]
    distance: Tensor
    curve: dict[float, Tensor]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]
    suites: dict[str, tuple[str, ...]]
    seconds: dict[str, float]
    x_adv: Tensor | None = None

    @property
    def robust(self) -> Tensor:
        """Right under every attack: over the whole set, so a clean mistake is not robust."""
        return list(self.by_attack.values())[-1] if self.by_attack else self.clean

    def interval(self, mask: str = "robust") -> Interval:
        """Wilson interval of "clean", "robust", an attack, or a suite that was asked for, by name."""
        found = {"clean": self.clean, "robust": self.robust, **self.by_attack}
        found |= {name: self.by_attack[parts[-1]] for name, parts in self.suites.items()}
        return rate(found[mask])

    def summary(self) -> dict[str, Any]:
        """The numbers as `evaluation.json` keeps them for one split."""
        return {
            "n": len(self.labels),
            "clean": asdict(self.interval("clean")),
            "by_attack": {name: asdict(rate(mask)) for name, mask in self.by_attack.items()},
            "robust": asdict(self.interval("robust")),
            "loss": asdict(mean_of(self.loss.numpy())),
            "curve": [{"eps": eps, **asdict(rate(mask))} for eps, mask in self.curve.items()],
            "flags": [asdict(flag) for flag in self.flags],
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The per-image arrays as `evaluation.safetensors` keeps them for one split."""
        names = ("labels", "clean", "robust", "loss", "predictions", "distance")
        arrays = {name: getattr(self, name).numpy() for name in names}
        arrays |= {name: mask.numpy() for name, mask in self.by_attack.items()}
        if self.curve:
            arrays["curve"] = torch.stack(list(self.curve.values())).numpy()
            arrays["curve_eps"] = np.array(list(self.curve))
        return arrays


def rate(mask: Tensor) -> Interval:
    """Share of True with its Wilson interval."""
    return wilson(int(mask.sum()), len(mask))


def gaps(train: Evaluation, test: Evaluation) -> dict[str, dict[str, float]]:
    """How far training and test lie apart; each is positive where training looks better.

    error: test error minus training error, clean. loss: the same for clean cross entropy, in nats. robust:
    training minus test robust accuracy, both re-measured at w, in eval mode, with the same attacks.
    """
    return {
        "error": asdict(difference(train.interval("clean"), test.interval("clean"))),
        "loss": asdict(difference(mean_of(test.loss.numpy()), mean_of(train.loss.numpy()))),
        "robust": asdict(difference(train.interval("robust"), test.interval("robust"))),
    }
