"""Adversarial weight perturbation (Wu, Xia and Wang 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlens.errors import ConfigError
from robustlens.weights.counted_images import CountedImages, Images
from robustlens.weights.perturbation import (
    TINY,
    Craft,
    LossFn,
    WeightPerturbation,
    check_size,
    offset_weights,
    relative,
)


class AdversarialWeightPerturbation(WeightPerturbation):
    """AWP (Wu, Xia and Wang 2020, algorithm 1): take the gradient step from the worst weights nearby.

    Every weight tensor with two or more dimensions moves, but for those of normalisation, as a share of its
    own norm. With one step

        v_l = gamma * ||w_l|| * g_l / ||g_l||,      g the gradient of `loss_fn` at w,

    and with more steps v ascends by gamma / steps of ||w_l|| each, and is kept within gamma ||w_l||. Each of
    the `alternations` makes the adversarial images anew at w + v, and then ascends further.

    Args:
        model: the network being trained, in the mode in which it is trained.
        gamma: relative size of the perturbation; 0.01 for AT, 0.005 for TRADES, MART and RST.
        steps: weight steps of each alternation (the paper's K2).
        alternations: rounds of images and weights (the paper's A). Above 1 `perturbed` needs its `craft`.
        images: which count: all, or only those of small or of large loss at w + v (`CountedImages`; Yu et al.
            2022). With a choice `perturbed` is given each image's loss (n,); where no image counts v stays.
        loss_threshold: in nats, largest loss of small-loss; 1.7 in Yu et al. for CIFAR-10, 4 for CIFAR-100.

    Raises:
        ConfigError: an argument is out of range, or the model has no weight to perturb.

    Differs from the authors' code: the weights come back *before* `optimizer.step()`, so weight decay
    acts on w and not on w + v (the two agree when weight decay is 0); they are restored from a copy
    instead of by subtraction, which in float32 misses about 1 % of them; BatchNorm's running statistics
    do not see the ascent pass; dropout draws the same mask in both passes.
    """

    name = "awp"
    follows_gradient = True

    def __init__(
        self,
        model: nn.Module,
        gamma: float = 0.01,
        *,
        steps: int = 1,
        alternations: int = 1,
        images: Images = "all",
        loss_threshold: float | None = None,
    ) -> None:
        check_size("awp.gamma", gamma)
        if steps < 1 or alternations < 1:
            raise ConfigError(
                f"awp: found steps {steps}, alternations {alternations}, expected at least 1 of each"
            )
        self.gamma, self.steps, self.alternations = gamma, steps, alternations
        self.counted = CountedImages(images, loss_threshold)
        self.takes_image_losses = images != "all"
        super().__init__(model)

    def scalars(self, losses: Sequence[LossFn]) -> list[LossFn]:
        """The losses as they are where all images count, else sums over those that do."""
        return self.counted.sums(losses) if self.takes_image_losses else list(losses)

    def offsets(
        self, losses: Sequence[LossFn], craft: Craft | None = None, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """The perturbation v, one tensor for each weight; the images are those at w at first."""
        if self.alternations > 1 and craft is None:
            raise ConfigError("awp.alternations: found more than 1, which need `perturbed(..., craft=...)`")
        weights = self.weights()
        v = [torch.zeros_like(weight) for weight in weights]
        for step in range(self.alternations * self.steps):
            with offset_weights(weights, v):
                if craft is not None and step and step % self.steps == 0:
                    craft()
                gradients = self.gradient(losses)
            ascents = relative(weights, gradients, self.gamma / self.steps)
            v = [before + ascent for before, ascent in zip(v, ascents, strict=True)]
            if self.alternations > 1:  # the steps of one alternation cannot leave the ball
                v = [self._shortened(weight, offset) for weight, offset in zip(weights, v, strict=True)]
        return v

    def offsets_along(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """One step from w along known gradients, each tensor by `gamma` of its norm."""
        if self.takes_image_losses:
            raise ConfigError("awp.from_attack: the attack's gradient is of all images; leave out awp.images")
        return relative(self.weights(), gradients, self.gamma)

    def _shortened(self, weight: Tensor, v: Tensor) -> Tensor:
        """v, shortened to gamma of the weight's norm where it is longer."""
        longest = self.gamma * weight.detach().norm()
        return v * torch.clamp(longest / (v.norm() + TINY), max=1.0)
