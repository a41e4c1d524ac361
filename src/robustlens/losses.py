"""Surrogate losses: the quantity that an attack maximises, one number per example, no reduction.

Every loss is larger the more wrong the model is. Most compare logits with labels; `kl` compares them with
the logits of the clean image, a targeted loss with the true class and a wanted one. So each loss says what it
is measured `against`, and an attack hands it that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.registry import Registry

Labels = Int64[Tensor, " n"] | Float[Tensor, "n c"]
"""A class for each image or, soft labels, a probability for each image and class (mixup)."""
Margins = TypeVar("Margins", Float[Tensor, " n"], Float[np.ndarray, " n"])
"""Margins of examples, in either library."""


@dataclass(frozen=True)
class Loss:
    """A named surrogate `(logits, target) -> (n,)`; `against` says what `target` is.

    `"label"`: integer labels (n,), or soft ones (n, classes) where the loss is `linear` in the label.
    `"clean"`: the clean image's logits (n, classes). `"pair"`: the true class and the wanted one, integers
    (n, 2). Below `least_classes` classes the loss is not defined.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    against: Literal["label", "clean", "pair"] = "label"
    least_classes: int = 2
    linear: bool = False

    def __call__(self, logits: Float[Tensor, "n c"], target: Tensor) -> Float[Tensor, " n"]:
        """Evaluate the loss; shapes as the class says.

        Raises:
            ConfigError: soft labels for a loss that is not linear in the label.
        """
        if self.against == "label" and target.ndim > 1 and not self.linear:
            raise ConfigError(f"loss {self.name!r}: found soft labels (mixup), expected one class an image")
        return self.function(logits, target)


def cross_entropy(logits: Float[Tensor, "n c"], y: Labels) -> Float[Tensor, " n"]:
    """Cross entropy in nats; for soft labels the mean over classes of their weight in `y`."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`max_{i != y} f_i - f_y`: positive exactly where the prediction is wrong.

    The untargeted Carlini-Wagner surrogate (Carlini and Wagner 2017, f_6) without its clamp at
    zero, so that an attack keeps a gradient after it has succeeded. The *margin of an example* in
    `explain.margins` is minus this.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)  # no other class: minus infinity
    return others.amax(1) - _at(logits, y)


def dlr(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Difference of logits ratio (Croce and Hein 2020, eq. 6): margin over `f_(1) - f_(3)`.

    Invariant under shift and positive scale of the logits. Raises `ConfigError` below three classes,
    where the third largest logit does not exist.
    """
    if logits.shape[1] < 3:
        raise ConfigError(f"loss 'dlr' needs at least 3 classes, found {logits.shape[1]}; use 'margin'")
    ranked = logits.topk(3, dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def kl(logits: Float[Tensor, "n c"], clean_logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """KL(p(x) || p(x_adv)) in nats: the inner loss of TRADES (Zhang et al. 2019, eq. 5).

    Its gradient at x_adv = x is exactly zero, so an attack on it needs a random start.
    """
    # In float32 at least: in bfloat16, which autocast hands on, near-equal distributions have noise for a KL.
    kind = torch.promote_types(logits.dtype, torch.float32)
    log_p, log_q = clean_logits.log_softmax(1, dtype=kind), logits.log_softmax(1, dtype=kind)
    p = log_p.exp()
    # A class that is ruled out, at minus infinity, counts as nothing, and so does its gradient.
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(1)


def targeted_cross_entropy(logits: Float[Tensor, "n c"], pair: Int64[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Minus the cross entropy of the wanted class, in nats."""
    return -cross_entropy(logits, pair[:, 1])


def targeted_margin(logits: Float[Tensor, "n c"], pair: Int64[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """`f_t - f_y` for the pair (y, t): where it is positive the prediction is not y."""
    return _at(logits, pair[:, 1]) - _at(logits, pair[:, 0])


def targeted_dlr(logits: Float[Tensor, "n c"], pair: Int64[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Targeted difference of logits ratio (Croce and Hein 2020, eq. 7).

    `f_t - f_y` over `f_(1) - (f_(3) + f_(4)) / 2`, invariant as `dlr`. Raises `ConfigError` below four
    classes, where the fourth largest logit does not exist.
    """
    if logits.shape[1] < 4:
        raise ConfigError(
            f"loss 'dlr' needs at least 4 classes to be targeted, found {logits.shape[1]}; use 'margin'"
        )
    ranked = logits.topk(4, dim=1).values
    return targeted_margin(logits, pair) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)


def smoothed_cross_entropy(
    logits: Float[Tensor, "n c"], y: Labels, label_smoothing: float
) -> Float[Tensor, " n"]:
    """Cross entropy against (1 - s) one-hot (or soft label) + s uniform (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)


def ramp(margins: Margins, gamma: float = 1.0) -> Margins:
    """Ramp loss of margins (Wen et al. 2020, definition 4): 1 below 0, 0 above `gamma`, linear between.

    Args:
        margins: positive where the prediction is right, as `explain.margins` gives them (minus `margin`), of
            logits or of probabilities.
        gamma: width of the ramp, in units of the margins.

    >>> ramp(torch.tensor([-1.0, 0.5, 3.0]), 2.0).tolist()
    [1.0, 0.75, 0.0]
    """
    return (1 - margins / gamma).clip(0.0, 1.0)


def is_wrong(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether the prediction is not `y`. A row with a NaN or plus infinity is wrong: it is never robust."""
    return (logits.argmax(1) != y) | is_broken(logits)


def likeliest(y: Labels) -> Int64[Tensor, " n"]:
    """The class of each image: where labels are soft, the one with the largest probability."""
    return y if y.ndim == 1 else y.argmax(1)


def is_broken(logits: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Whether a row has a NaN or plus infinity (minus infinity only rules a class out)."""
    return (logits.isnan() | logits.isposinf()).any(1)


def _at(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "ce": Loss("ce", cross_entropy, linear=True),
        "margin": Loss("margin", margin),
        "dlr": Loss("dlr", dlr, least_classes=3),
        "kl": Loss("kl", kl, against="clean"),
    },
)
"""The losses by name."""

TARGETED: Registry[Loss] = Registry(
    "targeted loss",
    {
        "ce": Loss("ce", targeted_cross_entropy, against="pair"),
        "margin": Loss("margin", targeted_margin, against="pair"),
        "dlr": Loss("dlr", targeted_dlr, against="pair", least_classes=4),
    },
)
"""The losses that can aim at a wanted class, each by the name of its untargeted form."""


def get(name: str, *, targeted: bool = False) -> Loss:
    """The registered loss `name`, or its targeted form.

    Raises:
        ConfigError: unknown name, or a loss that has no targeted form; with the known names.
    """
    return (TARGETED if targeted else LOSSES).find(name)


def fitting(name: str, classes: int, *, targeted: bool = False) -> str:
    """`name`, or "margin" where that loss is not defined for so few classes."""
    return name if classes >= get(name, targeted=targeted).least_classes else "margin"
