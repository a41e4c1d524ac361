"""Accuracies and mean losses after every epoch, on images that are chosen once."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustlens import attacks, losses, models
from robustlens.attacks import Attack
from robustlens.config import Recipe
from robustlens.data import Split, readable
from robustlens.machine import float32_products, repeatable
from robustlens.models.inputs import Readable
from robustlens.results import MonitorRecord
from robustlens.threat import ThreatModel
from robustlens.training.distributed import same_buffers, shared

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MEASURED = "at w, in eval mode, without augmentation, on a fixed subset"


class Monitor:
    """Measurement of networks on a fixed subset of a split.

    Args:
        recipe: says how many images, how strong an attack, and under which threat.
        split: the images to choose from.
        fabric: device.
    """

    def __init__(self, recipe: Recipe, split: Split, fabric: "Fabric") -> None:
        self.recipe, self.fabric = recipe, fabric
        subset = split.take(min(recipe.monitor.examples, len(split)), seed=recipe.data.seed)
        self.x, self.y = readable(subset), subset.labels.to(fabric.device)
        if isinstance(self.x, Tensor):
            self.x = self.x.to(fabric.device)

    def __call__(self, network: nn.Module) -> MonitorRecord | None:
        """Accuracies and losses of `network`, the same on all ranks; None where the split is empty."""
        if len(self.x) == 0:
            return None
        threat = ThreatModel.of(self.recipe.threat)
        batch_size = 2 * self.recipe.optimizer.batch_size
        # Running statistics may differ from rank to rank: those of the first, which are saved, count.
        same_buffers(network)
        return accuracy(network, self.x, self.y, threat, self.recipe.monitor.steps, batch_size)


def accuracy(
    network: nn.Module, x: Readable, y: Tensor, threat: ThreatModel, steps: int, batch_size: int
) -> MonitorRecord:
    """Clean and PGD accuracy on all of `x`, in eval mode, in IEEE float32; and, clean, two mean losses.

    `loss` is cross entropy in nats; `ramp_risk` the ramp loss of the probability margin at gamma 1 (Wen et
    al. 2020, definition 4), which is 1 on every mistake.

    It is repeatable, however fast the training is. The ranks of a training share the batches; sums are taken
    in the order of one process, and are its bits.

    Args:
        network: on the device of the labels.
        x: images (n, c, h, w), or a reader of them.
        y: their classes (n,).
        threat: of the attack; at eps 0 the robust accuracy is the clean one.
        steps: of the attack.
        batch_size: images in a pass.
    """
    attack = attacks.PGD(threat, steps=steps, stop_at_success=True) if threat.eps > 0 else None
    batches_of_rows = list(torch.arange(len(x)).split(batch_size))

    def measured(number: int) -> tuple[float, float, float, float]:
        rows = batches_of_rows[number]
        return _batch_sums(network, x[rows].to(y.device), y[rows], attack)

    # As many images as are left, another number in every step: fast training would try algorithms for each.
    with models.inference(network), float32_products(), repeatable(y.device):
        batches = shared(len(batches_of_rows), measured)
    clean, robust, loss, ramp_risk = (sum(values) / len(x) for values in zip(*batches, strict=True))
    return MonitorRecord(len(x), clean, robust, loss, ramp_risk, _MEASURED)


def _batch_sums(
    network: nn.Module, x: Tensor, y: Tensor, attack: Attack | None
) -> tuple[float, float, float, float]:
    """Images of a batch that are right, and that stay so under attack; sums of both losses."""
    logits = network(x)
    right = ~losses.is_wrong(logits, y)
    clean = robust = int(right.sum())
    if attack is not None and clean:
        x_adv = attack(network, x[right], y[right])
        robust = int((~losses.is_wrong(network(x_adv), y[right])).sum())
    ramp = losses.ramp(-losses.margin(logits.softmax(1), y))
    return clean, robust, losses.cross_entropy(logits, y).sum().item(), ramp.sum().item()
