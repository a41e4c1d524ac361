"""Attacks that are called as those of foolbox 3: many radii at once, and a mask of successes.

    model = rl.compat.foolbox.PyTorchModel(network, bounds=(0, 1))
    raw, clipped, success = rl.compat.foolbox.LinfPGD(steps=20)(model, x, y, epsilons=[2 / 255, 8 / 255])

Where an attack does not break an image, foolbox returns its last iterate, and so do these. Random starts are
drawn from torch's own random state, as there.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens import losses, models
from robustlens.attacks import FGSM, PGD, Attack, MinimumNorm
from robustlens.compat.forward import network_of
from robustlens.errors import ConfigError
from robustlens.machine import float32_products
from robustlens.threat import ThreatModel


def _radii(epsilons: Any) -> tuple[list[float | None], bool]:
    """The radii, and whether there are several: those of a list, an array or a tensor of one dimension."""
    if isinstance(epsilons, np.ndarray | Tensor):
        epsilons = epsilons.tolist()
    several = isinstance(epsilons, Iterable)
    radii = list(epsilons) if several else [epsilons]
    return [_number(eps) for eps in radii], several


def _number(eps: Any) -> float | None:
    if not isinstance(eps, np.ndarray | Tensor):
        number: float | None = eps
        return number
    if eps.ndim:
        raise ConfigError(f"epsilons: found one of shape {tuple(eps.shape)}, expected a number each")
    return float(eps)


class PyTorchModel:
    """A network with the range of its pixels.

    Args:
        model: returns logits; its normalisation is inside.
        bounds: smallest and largest value of a pixel.
        device: of the network, where that is a function; None for its own.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        bounds: tuple[float, float] = (0.0, 1.0),
        device: str | torch.device | None = None,
    ) -> None:
        self.network = network_of(model, device, "PyTorchModel.model")
        self.bounds = (float(bounds[0]), float(bounds[1]))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.network(x)
        return logits


@dataclass(frozen=True)
class RadiusAttack:
    """An attack at each of several radii; made by `LinfPGD` and the others of this module.

    Args:
        norm: of the radii.
        build: the attack within a threat model.
        is_minimal: whether it looks for the nearest adversarial image: then it runs once, for all radii.
    """

    norm: str
    build: Callable[[ThreatModel], Attack]
    is_minimal: bool = False

    def __call__(
        self,
        model: PyTorchModel | nn.Module,
        inputs: Float[Tensor, "n ..."],
        criterion: Any,
        *,
        epsilons: Float[Tensor, " k"]
        | Float[np.ndarray, " k"]
        | Iterable[float | Tensor | np.ndarray | None]
        | float
        | None,
    ) -> tuple[Any, Any, Any]:
        """Attack the images at every radius.

        Args:
            model: a `PyTorchModel`, or a network on pixels in [0, 1].
            inputs: images.
            criterion: their labels (n,), as a tensor or as foolbox's `Misclassification(labels)`.
            epsilons: k radii, in a list, an array or a tensor, or one; None, alone or among them, is without
                a limit, for attacks that look for the nearest adversarial image.

        Returns:
            raw, clipped, success. For k radii two lists of k tensors (n, ...) and a mask (k, n): the
            attack's images, the same cut to the radius, and where the model is wrong on these. For one radius
            two tensors and a mask (n,). A clean mistake counts as a success.

        Raises:
            ConfigError: no radius, or none given to an attack that needs one. DataError: images or labels.
        """
        model = model if isinstance(model, PyTorchModel) else PyTorchModel(model)
        radii, several = _radii(epsilons)
        self._check(radii)
        if hasattr(criterion, "target_classes"):
            raise ConfigError(
                "criterion: found target classes, expected labels; rl.attacks.PGD takes targets="
            )
        labels = getattr(criterion, "labels", criterion)
        labels = torch.as_tensor(getattr(labels, "raw", labels), device=inputs.device)  # raw of eagerpy
        raw, clipped, masks = [], [], []
        for eps, x_raw in zip(radii, self._raw(model, inputs, labels, radii), strict=True):
            threat = ThreatModel(self.norm, math.inf if eps is None else eps, bounds=model.bounds)
            x_adv = x_raw if eps is None else threat.project(x_raw, inputs)
            raw.append(x_raw)
            clipped.append(x_adv)
            masks.append(_is_wrong(model.network, x_adv, labels))
        if not several:
            return raw[0], clipped[0], masks[0]
        return raw, clipped, torch.stack(masks)

    def _raw(self, model: PyTorchModel, x: Tensor, y: Tensor, radii: Sequence[float | None]) -> list[Tensor]:
        """The attack's images for each radius."""
        if self.is_minimal:
            nearest = self.build(ThreatModel(self.norm, math.inf, bounds=model.bounds))
            return [nearest(model.network, x, y, generator=torch.default_generator)] * len(radii)
        threats = [ThreatModel(self.norm, eps or 0.0, bounds=model.bounds) for eps in radii]
        return [
            self.build(threat)(model.network, x, y, generator=torch.default_generator) for threat in threats
        ]

    def _check(self, radii: Sequence[float | None]) -> None:
        if not radii:
            raise ConfigError("epsilons: found none, expected one radius or several")
        if None in radii and not self.is_minimal:
            raise ConfigError("epsilons: found None, expected a radius; L2FMNAttack and its like take None")


def _is_wrong(network: nn.Module, x: Tensor, y: Tensor) -> Bool[Tensor, " n"]:
    """Where the network, in eval mode and IEEE float32, predicts another class."""
    with models.inference(network), float32_products():
        return losses.is_wrong(network(x), y)


def _pgd(norm: str, share: float, usual_steps: int) -> Callable[..., RadiusAttack]:
    """The constructor of projected gradient descent in one norm, with foolbox's defaults."""

    def attack(
        *,
        rel_stepsize: float = share,
        abs_stepsize: float | None = None,
        steps: int = usual_steps,
        random_start: bool = True,
    ) -> RadiusAttack:
        """Projected gradient descent on the cross entropy; a step is `rel_stepsize` of the radius."""

        def build(threat: ThreatModel) -> Attack:
            length = (rel_stepsize * threat.eps or None) if abs_stepsize is None else abs_stepsize
            return PGD(threat, steps=steps, step_size=length, random_start=random_start, keep="last")

        return RadiusAttack(norm, build)

    return attack


def _one_step(norm: str) -> Callable[..., RadiusAttack]:
    """The constructor of the one-step attack in one norm."""

    def attack(*, random_start: bool = False) -> RadiusAttack:
        """One step of the length of the radius along the gradient of the cross entropy."""
        return RadiusAttack(norm, partial(FGSM, random_start=random_start))

    return attack


def _nearest(norm: str) -> Callable[..., RadiusAttack]:
    """The constructor of the search for the nearest adversarial image in one norm."""

    def attack(*, steps: int = 100) -> RadiusAttack:
        """The fast minimum-norm search (Pintor et al. 2021), as `rl.attacks.MinimumNorm`."""
        return RadiusAttack(norm, partial(MinimumNorm, steps=steps), is_minimal=True)

    return attack


LinfPGD = LinfProjectedGradientDescentAttack = _pgd("Linf", 0.01 / 0.3, 40)
L2PGD = L2ProjectedGradientDescentAttack = _pgd("L2", 0.025, 50)
L1PGD = L1ProjectedGradientDescentAttack = _pgd("L1", 0.025, 50)
LinfFastGradientAttack = _one_step("Linf")
L2FastGradientAttack = _one_step("L2")
LInfFMNAttack = _nearest("Linf")
L2FMNAttack = _nearest("L2")
L1FMNAttack = _nearest("L1")
