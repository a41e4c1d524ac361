"""The adversarial loss at the weights as they are, of which every landscape and flatness number is made."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import PGD, Attack
from robustlens.explain.margins import attacked_images, logits_of
from robustlens.explain.temperature import best_temperature
from robustlens.models import device_of, fast_copy
from robustlens.models.inputs import Images, Labels, checked
from robustlens.threat import ThreatModel

_COMPARED = 4
"""Images on which a copy of the network shows its logits before it is attacked in the network's place."""

KINDS = ("loss", "matched", "error")
Values = dict[str, np.ndarray]
"""Image by image, the last axis: `loss` and `matched` in nats (float32), `error` (bool)."""


@dataclass(frozen=True, eq=False)
class AdversarialLoss:
    """The adversarial loss of `model` on fixed images, attacked anew at the weights that it has when called.

    The attack runs on a faster copy of the network, made at every call (`models.fast_copy`: BatchNorm folded,
    channels last, no gradient to weights); the losses of its images are those of the network itself, in its
    own precision. A network that cannot be copied is attacked itself.

    Args:
        model: left as it is.
        x, y: images (at least one) and labels, on the model's device.
        attack: made anew at every call, from the same random start.
        temperature: by which logits are divided for `matched`; NaN where none fits.
        batch_size: changes speed, not results.
    """

    model: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, " n"]
    attack: Attack
    temperature: float
    batch_size: int = 256

    @classmethod
    def under_pgd(
        cls,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        steps: int,
        seed: int = 0,
        batch_size: int = 256,
        where: str,
    ) -> "AdversarialLoss":
        """PGD, and the temperature that fits the clean logits at the weights as they are now.

        Of clean logits: attacked ones may be worse than chance, and then no temperature but infinity fits.
        Images and labels are checked, in messages of `where`, and go to the model's device.
        """
        x, y = (part.to(device_of(model)) for part in checked(model, x, y, threat.bounds, where=where))
        temperature = best_temperature(logits_of(model, x, batch_size), y.cpu())
        return cls(model, x, y, PGD(threat, steps=steps, seed=seed), temperature, batch_size)

    def images(self) -> Float[Tensor, "n ..."]:
        """The adversarial images at these weights."""
        copy = fast_copy(self.model, self.x[:_COMPARED])
        return attacked_images(copy, self.x, self.y, self.attack, self.batch_size)

    def __call__(self) -> Values:
        """Loss, matched loss and error of each image under the attack; each (n,)."""
        return values_of(logits_of(self.model, self.images(), self.batch_size), self.y, self.temperature)


def values_of(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"], temperature: float) -> Values:
    """Cross entropy, the same of logits / temperature, and whether the prediction is wrong; each (n,)."""
    labels = y.cpu()
    return {
        "loss": losses.cross_entropy(logits, labels).numpy(),
        "matched": losses.cross_entropy(logits / temperature, labels).numpy(),
        "error": losses.is_wrong(logits, labels).numpy(),
    }


def stacked(values: list[Values], shape: tuple[int, ...]) -> Values:
    """Values of many points as one array of each kind, (*shape, n)."""
    return {kind: np.stack([each[kind] for each in values]).reshape(*shape, -1) for kind in values[0]}
