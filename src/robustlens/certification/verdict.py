"""What a certifier says of images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens.stats.intervals import Interval, wilson
from robustlens.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Certification:
    """Images that are proven robust, one by one. All tensors are on the CPU.

    Attributes:
        threat: what the attacker may do.
        right: (n,) predicted as their label without an attack; by smoothing, its prediction.
        certified: (n,) right, and proven to stay so within the threat.
        margins: (n, classes) lower bounds of f_y - f_i over the threat, infinite for the label itself; None
            by smoothing.
        radius: (n,) certified radius in the threat's norm, 0 where the prediction is wrong or not certain;
            None where it was not asked for. By bisection it is no more than eps, by smoothing it may be.
        of_smoothed: whether the verdict is on the smoothed classifier and not on the network itself.
    """

    threat: ThreatModel
    right: Bool[Tensor, " n"]
    certified: Bool[Tensor, " n"]
    margins: Float[Tensor, "n c"] | None = None
    radius: Float[Tensor, " n"] | None = None
    of_smoothed: bool = False

    @classmethod
    def of(
        cls, threat: ThreatModel, right: Tensor, margins: Tensor, radius: Tensor | None
    ) -> "Certification":
        """The verdict that lower bounds of margins give."""
        return cls(threat, right, right & (margins.amin(1) > 0), margins, radius)

    @property
    def lower(self) -> Float[Tensor, " n"]:
        """Lower bound of the smallest margin of each image; NaN by smoothing."""
        return torch.full((len(self.right),), torch.nan) if self.margins is None else self.margins.amin(1)

    @property
    def accuracy(self) -> Interval:
        """Certified accuracy over all images, with its Wilson interval."""
        return wilson(int(self.certified.sum()), len(self.certified))


class Certifier(Protocol):
    """A method of `certify`."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, batch_size: int, radius: bool
    ) -> Certification:
        """The verdict on checked images, of a model in eval mode."""
