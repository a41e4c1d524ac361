"""Choice of the images that a perturbation of the weights follows, by their loss."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.weights.perturbation import LossFn

Images = Literal["all", "small-loss", "large-loss"]
"""Names of the choices."""


class CountedImages:
    """The images that count: all, those of a loss up to a threshold, or those above it.

    After Yu et al. 2022 ("Robust Weight Perturbation for Adversarial Training", IJCAI), whose loss stationary
    condition lets only images of a small adversarial loss perturb the weights: large losses already leave
    much to learn, and the perturbation by them is said to hurt. Differs: their condition is on the cross
    entropy of x_adv, here it is on the loss that is trained on, which is the same for AT but not for TRADES.

    Args:
        images: all, small-loss or large-loss.
        loss_threshold: in nats, above 0; with small-loss and large-loss only.

    Raises:
        ConfigError: another name, a threshold without a choice or the other way, or one that is out of range.
    """

    def __init__(self, images: str = "all", loss_threshold: float | None = None) -> None:
        if images not in get_args(Images):
            raise ConfigError(f"awp.images: found {images!r}, expected {' or '.join(get_args(Images))}")
        if (images == "all") != (loss_threshold is None):
            raise ConfigError(
                f"awp.loss_threshold: found {loss_threshold} with images {images!r}, expected a threshold "
                "with small-loss and large-loss, and with them alone"
            )
        if loss_threshold is not None and not 0 < loss_threshold < float("inf"):
            raise ConfigError(f"awp.loss_threshold: found {loss_threshold}, expected a finite number > 0")
        self.images, self.loss_threshold = images, loss_threshold

    def sums(self, losses: Sequence[LossFn]) -> list[LossFn]:
        """Scalars whose sum has the gradient of the images that count, from functions that give each's loss.

        All are divided by the images of the first micro-batch, so that every image of the batch weighs alike
        and the sums are of the size of a mean, in whatever precision it is scaled.
        """
        sizes: list[int] = []
        return [partial(self._sum, loss_fn, sizes) for loss_fn in losses]

    def _sum(self, loss_fn: LossFn, sizes: list[int]) -> Tensor:
        losses = loss_fn()
        if losses.ndim != 1:
            raise ConfigError(
                f"awp.images: found a loss of shape {tuple(losses.shape)} with {self.images!r}, expected "
                "`perturbed` to be given each image's loss (n,), not their mean"
            )
        sizes.append(max(len(losses), 1))
        return torch.where(self._count(losses), losses, 0.0).sum() / sizes[0]

    def _count(self, losses: Tensor) -> Tensor:
        """Whether each image counts; one whose loss is not finite does, so that the error is raised."""
        small = losses <= (self.loss_threshold or 0.0)
        return (small if self.images == "small-loss" else ~small) | ~losses.isfinite()
