"""Accuracies and mean losses after every epoch, on images that are chosen once."""

from lightning_fabric import Fabric
from torch import Tensor, nn

from robustlens import attacks, losses, models
from robustlens.attacks import Attack
from robustlens.config import Recipe
from robustlens.data import Split, readable
from robustlens.machine import float32_products
from robustlens.models.inputs import Readable
from robustlens.results import MonitorRecord
from robustlens.threat import ThreatModel

_MEASURED = "at w, in eval mode, without augmentation, on a fixed subset"


class Monitor:
    """Measurement of networks on a fixed subset of a split.

    Args:
        recipe: says how many images, how strong an attack, and under which threat.
        split: the images to choose from.
        fabric: device.
    """

    def __init__(self, recipe: Recipe, split: Split, fabric: Fabric) -> None:
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
        record = accuracy(network, self.x, self.y, threat, self.recipe.monitor.steps, batch_size)
        # Running statistics may differ from rank to rank: those of the first, which are saved, count.
        return self.fabric.broadcast(record)


def accuracy(
    network: nn.Module, x: Readable, y: Tensor, threat: ThreatModel, steps: int, batch_size: int
) -> MonitorRecord:
    """Clean and PGD accuracy on all of `x`, in eval mode, in IEEE float32; and, clean, two mean losses.

    `loss` is cross entropy in nats; `ramp_risk` the ramp loss of the probability margin at gamma 1 (Wen et
    al. 2020, definition 4), which is 1 on every mistake.

    Args:
        network: on the device of the labels.
        x: images (n, c, h, w), or a reader of them.
        y: their classes (n,).
        threat: of the attack; at eps 0 the robust accuracy is the clean one.
        steps: of the attack.
        batch_size: images in a pass.
    """
    attack = attacks.PGD(threat, steps=steps, stop_at_success=True) if threat.eps > 0 else None
    sums = [0.0] * 4
    with models.inference(network), float32_products():
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            batch = _batch_sums(network, images.to(y.device), labels, attack)
            sums = [total + value for total, value in zip(sums, batch, strict=True)]
    clean, robust, loss, ramp_risk = (total / len(x) for total in sums)
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
