"""The check of an attack's images: inside the threat model, and misclassified beyond rounding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.errors import NumericsError
from robustlens.threat import ThreatModel

CLOSE = 1e-3
"""Share of the largest logit within which `models.float64_copy` has shown float32 and float64 to agree."""


@dataclass(frozen=True, eq=False)
class Verifier:
    """The model itself decides, whichever faster copy an attack has searched on.

    Args:
        model: the model under evaluation, in eval mode.
        exact: its float64 copy, or None where there is none. A success has to hold in both: a point that
            only rounding puts across the boundary is not one. It is asked where the margin is so small,
            compared with the logits, that rounding could matter (`CLOSE`).
    """

    model: nn.Module
    exact: nn.Module | None

    @torch.no_grad()
    def misclassified(self, x_adv: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Mask of the points that the model gets wrong. A NaN counts as wrong: it is never robust."""
        logits = self.model(x_adv)
        wrong = losses.is_wrong(logits, y)
        close = losses.margin(logits, y).abs() <= CLOSE * logits.abs().amax(1)  # never of a NaN
        doubtful = torch.nonzero(wrong & close).squeeze(1)
        if self.exact is not None and len(doubtful):
            wrong[doubtful] = losses.is_wrong(self.exact(x_adv[doubtful].double()), y[doubtful])
        return wrong


def within(distance: Float[Tensor, " n"], threat: ThreatModel, eps: float) -> Bool[Tensor, " n"]:
    """Whether distances are at most `eps`, but for the rounding of a float32 pixel."""
    low, high = threat.bounds
    return distance <= eps + 1e-6 * (high - low)


def checked_distance(
    name: str, x_adv: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."], threat: ThreatModel
) -> Float[Tensor, " n"]:
    """Distances of an attack's images, in float64.

    Raises:
        NumericsError: an image is outside the threat model; a number made of such images is not valid.
    """
    low, high = threat.bounds
    distance = threat.distance(x_adv.double(), x.double())
    inside = within(distance, threat, threat.eps).all() and x_adv.min() >= low and x_adv.max() <= high
    if not inside:  # a NaN is not inside either
        farthest, pixels = float(distance.max()), f"[{float(x_adv.min()):g}, {float(x_adv.max()):g}]"
        raise NumericsError(
            f"attack {name!r}: found an image at {threat.norm} distance {farthest:g} with pixels in "
            f"{pixels}, expected at most {threat.eps:g} in [{low:g}, {high:g}]; build the attack with the "
            "evaluation's threat"
        )
    return distance
