"""Attacks that are called as those of torchattacks: built around a model, then given images and labels.

    x_adv = rl.compat.torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)(images, labels)

Random starts are drawn from torch's own random state, as there; `Square` takes its seed. Images are in
[0, 1]; normalisation is the model's first layer.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import attacks
from robustlens.compat.forward import network_of
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel


class TorchAttack:
    """Base: a model and an attack on it.

    Args:
        model: a network, or a function from images in [0, 1] to logits.
        attack: on it.
        generator: of its random numbers; None for those of its own seed, the same in each call.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        attack: attacks.Attack,
        generator: torch.Generator | None = torch.default_generator,
    ) -> None:
        self.model = network_of(model, None, f"{type(self).__name__}.model")
        self.attack, self.generator = attack, generator
        self._mode = "default"

    def __call__(self, inputs: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """Adversarial images; in the mode `targeted_by_label` the labels are the wanted classes."""
        return self.attack_of_mode()(self.model, inputs, labels, generator=self.generator)

    def attack_of_mode(self) -> attacks.Attack:
        """The attack in the mode that is set."""
        if self._mode == "default":
            return self.attack
        if not isinstance(self.attack, attacks.PGD):
            raise ConfigError(f"{type(self).__name__}: found the mode {self._mode}, expected PGD for it")
        towards: dict[str, Any] = {"targeted": {"targeted": True}}.get(
            self._mode, {"targets": "least-likely"}
        )
        return replace(self.attack, **towards)

    def set_mode_default(self) -> None:
        """Away from the labels."""
        self._mode = "default"

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """Towards the classes that are given as labels."""
        self._mode = "targeted"

    def set_mode_targeted_least_likely(self, quiet: bool = False) -> None:
        """Towards the least likely class of each image, other than its label."""
        self._mode = "least likely"


class PGD(TorchAttack):
    """Projected gradient descent in Linf; arguments as `attacks.PGD`, `alpha` its `step_size`."""

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        threat = ThreatModel("Linf", eps)
        super().__init__(model, _pgd(threat, alpha, steps, random_start))


class PGDL2(TorchAttack):
    """Projected gradient descent in L2."""

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        eps: float = 1.0,
        alpha: float = 0.2,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        super().__init__(model, _pgd(ThreatModel("L2", eps), alpha, steps, random_start))


class FGSM(TorchAttack):
    """The fast gradient sign method."""

    def __init__(self, model: nn.Module | Callable[[Tensor], Tensor], eps: float = 8 / 255) -> None:
        super().__init__(model, attacks.FGSM(ThreatModel("Linf", eps)))


class Square(TorchAttack):
    """Square, which asks for logits alone; `seed` decides its random numbers."""

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 8 / 255,
        n_queries: int = 5000,
        n_restarts: int = 1,
        seed: int = 0,
    ) -> None:
        threat = ThreatModel(norm, eps)
        attack = attacks.Square(threat, queries=n_queries, restarts=n_restarts, seed=seed)
        super().__init__(model, attack, generator=None)


def _pgd(threat: ThreatModel, alpha: float, steps: int, random_start: bool) -> attacks.PGD:
    """PGD that ends with its last iterate, as torchattacks' does."""
    return attacks.PGD(threat, steps=steps, step_size=alpha, random_start=random_start, keep="last")
