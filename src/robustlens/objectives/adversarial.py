"""Objectives of logits alone, at x and at x_adv: cross entropy, TRADES, MART, logit pairing."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import losses
from robustlens.errors import ConfigError
from robustlens.losses import Labels
from robustlens.objectives.base import InnerAttack, Smoothing, Weight, inner_pgd


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy on one batch of images: standard training on x, adversarial training on x_adv.

    `at` is adversarial training (Madry et al. 2018, eq. 2.1); `fgsm` is the same with a one-step attack.
    Label smoothing is of the loss that is minimised; the attack maximises cross entropy of the given labels.
    """

    inner_attack: InnerAttack | None
    label_smoothing: Smoothing = 0.0

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Cross entropy of each example, in nats."""
        images = x if self.inner_attack is None else x_adv
        return losses.smoothed_cross_entropy(model(images), y, self.label_smoothing)


@dataclass(frozen=True)
class TRADES:
    """CE(x) + beta KL(p(x) || p(x_adv)) (Zhang et al. 2019, eq. 5; beta is their 1/lambda).

    Differs from the authors' code: the inner attack starts uniformly in the ball, not at 0.001 Gaussian
    noise around x, so that every objective here shares one start.
    """

    beta: Weight = 6.0
    label_smoothing: Smoothing = 0.0
    inner_attack: InnerAttack | None = field(default=inner_pgd("kl"), repr=False)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """TRADES loss of each example, in nats."""
        logits = model(x)
        natural = losses.smoothed_cross_entropy(logits, y, self.label_smoothing)
        return natural + self.beta * losses.kl(model(x_adv), logits)


@dataclass(frozen=True)
class MART:
    """BCE(x_adv) + beta (1 - p_y(x)) KL(p(x) || p(x_adv)) (Wang et al. 2020, eq. 11).

    BCE is -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)): the second term pushes the runner-up down.
    Logarithms are taken from log-softmax with a floor of 1e-4 on 1 - p (the authors add 1e-4 inside).

    Raises:
        ConfigError: called with soft labels, for which there is no runner-up.
    """

    soft_labels: ClassVar[bool] = False
    beta: Weight = 5.0
    inner_attack: InnerAttack | None = field(default=inner_pgd("ce"), repr=False)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """MART loss of each example, in nats."""
        if y.ndim > 1:
            raise ConfigError("objective 'mart': found soft labels (mixup), expected one class an image")
        logits_adv, logits = model(x_adv), model(x)
        # In float32 at least: in bfloat16, which autocast hands on, 1 + 1e-4 is 1 and the floor is gone.
        p_adv = logits_adv.softmax(1, dtype=torch.promote_types(logits_adv.dtype, torch.float32))
        runner_up = p_adv.scatter(1, y[:, None], 0.0).amax(1)
        boosted = losses.cross_entropy(logits_adv, y) - torch.log(1.0 + 1e-4 - runner_up)
        p_true = logits.softmax(1, dtype=p_adv.dtype).gather(1, y[:, None]).squeeze(1)
        return boosted + self.beta * (1.0 - p_true) * losses.kl(logits_adv, logits)


@dataclass(frozen=True)
class LogitPairing:
    """(CE(x) + CE(x_adv)) / 2 + weight mean_k (f_k(x) - f_k(x_adv))^2: adversarial logit pairing.

    Kannan, Kurakin and Goodfellow 2018, section 3: a batch half clean and half adversarial, whose logits are
    paired. The squared distance is averaged over classes, as in the authors' code, and `weight` is theirs for
    ImageNet. Differs: their cross entropy takes both halves as one batch, so that BatchNorm normalises them
    together; here, as in TRADES and MART, it sees one after the other.
    """

    weight: Weight = 0.5
    label_smoothing: Smoothing = 0.0
    inner_attack: InnerAttack | None = field(default=inner_pgd("ce"), repr=False)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Mixed cross entropy, in nats, plus the pairing of each example."""
        logits, logits_adv = model(x), model(x_adv)
        clean, adversarial = (
            losses.smoothed_cross_entropy(each, y, self.label_smoothing) for each in (logits, logits_adv)
        )
        pairing = F.mse_loss(logits_adv, logits, reduction="none").mean(1)
        return (clean + adversarial) / 2 + self.weight * pairing
