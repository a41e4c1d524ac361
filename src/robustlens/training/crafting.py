"""The adversarial images of a training step, made on a faster copy of the network where that is allowed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustlens import attacks, models
from robustlens.attacks import Attack, Crafted
from robustlens.config import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Crafter:
    """The inner attack of a recipe, and the network that it runs on.

    An attack that asks for nothing but logits in eval mode runs on a copy of the network that follows its
    weights (`models.training_copy`). With `compile`, a step of PGD is then one graph (`attacks.CompiledPGD`);
    in train mode, where layers change as they are asked, the attack asks the compiled network.

    Args:
        attack: of the recipe's objective.
        model: the network, on its device, with its first weights.
        network: it as passes run it, compiled perhaps.
        few: some training images, on the same device, on which a copy has to show the same logits.
        recipe: says whether to compile, and in which precision.
        fabric: device and precision.
    """

    def __init__(
        self,
        attack: Attack,
        model: nn.Module,
        network: nn.Module,
        few: Tensor,
        recipe: Recipe,
        fabric: "Fabric",
    ) -> None:
        self.attack, self.fabric = attack, fabric
        self.copy = self.compiled = None
        if isinstance(attack, attacks.PGD | attacks.FGSM) and attack.model_mode == "eval":
            precision = "bf16-mixed" if recipe.precision == "bf16-mixed" else "32-true"
            self.copy = models.training_copy(model, few, precision=precision)
            if recipe.compile and isinstance(attack, attacks.PGD):
                graphs = recipe.fast and fabric.device.type == "cuda"
                self.compiled = attacks.CompiledPGD(attack, graphs=graphs)
        self.network = model if self.compiled else network

    def __call__(
        self, x: Tensor, y: Tensor, *, weights: Sequence[nn.Parameter], generator: torch.Generator
    ) -> Crafted:
        """Adversarial images at the weights as they are, and gradients of `weights` as in `attacks.craft`."""
        attack, network = self.attack, self.network
        if not weights:  # their gradients are asked of the network itself
            attack = self.compiled or attack
            network = network if self.copy is None else self.copy.refreshed()
        with self.fabric.autocast():
            return attacks.craft(attack, network, x, y, weights=weights, generator=generator)
