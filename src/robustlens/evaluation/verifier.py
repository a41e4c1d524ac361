"""The check of an attack's images: inside the threat model, and misclassified beyond rounding and chance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.errors import NumericsError
from robustlens.threat import ThreatModel

CLOSE = 1e-3
"""Share of the largest logit within which `models.float64_copy` has shown float32 and float64 to agree."""

DRAWS = 50
"""Draws of a random model to a verdict on an image; ten to a pass, as some models draw once a pass."""
_PASSES = 5


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
    def misclassified(
        self, x_adv: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], x: Float[Tensor, "n ..."]
    ) -> Bool[Tensor, " n"]:
        """Mask of the points, made of the images `x`, that the model gets wrong.

        A NaN counts as wrong: it is never robust.
        """
        logits = self.model(x_adv)
        wrong = losses.is_wrong(logits, y)
        close = losses.margin(logits, y).abs() <= CLOSE * logits.abs().amax(1)  # never of a NaN
        doubtful = torch.nonzero(wrong & close).squeeze(1)
        if self.exact is not None and len(doubtful):
            wrong[doubtful] = losses.is_wrong(self.exact(x_adv[doubtful].double()), y[doubtful])
        return wrong


@dataclass(frozen=True, eq=False)
class RandomVerifier:
    """The verdict on a model that draws random numbers, over many draws.

    A point is wrong in a share of the draws. It counts as wrong where that share exceeds a threshold, uniform
    in [0, 1), that is drawn once for each image. So an accuracy is the mean over draws, and an attack counts
    by how far it lowers that mean; were each verdict one draw, each attack would be a new chance to fail.
    The draws belong to the image too: all attacks on it and the clean accuracy see the same ones.

    Args:
        model: the model under evaluation, in eval mode. Its random numbers are torch's global ones; those of
            a generator of its own are not the same at every verdict, which costs some of the exactness.
        seed: base of the draws and thresholds.
    """

    model: nn.Module
    seed: int

    @torch.no_grad()
    def misclassified(
        self, x_adv: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], x: Float[Tensor, "n ..."]
    ) -> Bool[Tensor, " n"]:
        """Mask of the points, made of the images `x`, that count as wrong."""
        logits = self._draws(x_adv, x)
        return self._count_as_wrong(_per_draw(losses.is_wrong, logits, y), x)

    @torch.no_grad()
    def clean(self, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]) -> "CleanVerdict":
        """The verdict on the images themselves; a wrong prediction is the most frequent wrong one."""
        logits = self._draws(x, x)
        wrong, predicted = _per_draw(losses.is_wrong, logits, y), logits.argmax(2)
        counts_as_wrong = self._count_as_wrong(wrong, x)
        votes = nn.functional.one_hot(predicted, logits.shape[2]) * wrong[:, :, None]
        predictions = torch.where(counts_as_wrong, votes.sum(1).argmax(1), y)
        loss = _per_draw(losses.cross_entropy, logits.float(), y).mean(1)
        return CleanVerdict(~counts_as_wrong, predictions, loss)

    def _draws(self, x_adv: Tensor, x: Tensor) -> Float[Tensor, "n draws c"]:
        """Logits of each point, by the random numbers of the image that it was made of."""
        size, logits = DRAWS // _PASSES, []
        for point, key in zip(x_adv, noise.keys(x, self.seed).tolist(), strict=True):
            batch = point.expand(size, *point.shape)
            with noise.torch_seeded(key, x_adv.device):
                logits.append(torch.cat([self.model(batch) for _ in range(_PASSES)]))
        return torch.stack(logits)

    def _count_as_wrong(self, wrong: Bool[Tensor, "n draws"], x: Tensor) -> Bool[Tensor, " n"]:
        share = wrong.float().mean(1)
        return share > noise.uniform(noise.fold(noise.keys(x, self.seed), 1), share)


class CleanVerdict(NamedTuple):
    """The verdict on images without an attack: right or not, the prediction, the cross entropy in nats."""

    right: Bool[Tensor, " n"]
    predictions: Int64[Tensor, " n"]
    loss: Float[Tensor, " n"]


def _per_draw(
    function: Callable[[Tensor, Tensor], Tensor], logits: Float[Tensor, "n draws c"], y: Int64[Tensor, " n"]
) -> Shaped[Tensor, "n draws"]:
    """`function` of the logits of every draw and the label of its image."""
    draws = logits.shape[1]
    return function(logits.flatten(0, 1), y.repeat_interleave(draws)).view(-1, draws)


def within(distance: Float[Tensor, " n"], threat: ThreatModel, eps: float) -> Bool[Tensor, " n"]:
    """Whether distances are at most `eps`, but for the rounding of a float32 pixel."""
    return distance <= eps + tolerance(threat)


def tolerance(threat: ThreatModel) -> float:
    """How far outside the ball an image may be: the rounding of a float32 pixel."""
    low, high = threat.bounds
    return 1e-6 * (high - low)


def checked_distance(
    name: str, x_adv: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."], threat: ThreatModel
) -> Float[Tensor, " n"]:
    """Distances of an attack's images, in float64; of no images, none.

    Raises:
        NumericsError: an image is outside the threat model; a number made of such images is not valid.
    """
    low, high = threat.bounds
    distance = threat.distance(x_adv.double(), x.double())
    in_box = ((x_adv >= low) & (x_adv <= high)).all()
    if not (in_box & within(distance, threat, threat.eps).all()):  # a NaN is not inside either
        farthest, pixels = float(distance.max()), f"[{float(x_adv.min()):g}, {float(x_adv.max()):g}]"
        raise NumericsError(
            f"attack {name!r}: found an image at {threat.norm} distance {farthest:g} with pixels in "
            f"{pixels}, expected at most {threat.eps:g} in [{low:g}, {high:g}]; build the attack with the "
            "evaluation's threat"
        )
    return distance
