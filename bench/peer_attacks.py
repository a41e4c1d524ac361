"""Attacks of foolbox and adversarial-library in one form: `(network, x, y) -> x_adv`, for a norm.

Needs what bench/requirements-peers.txt names, installed without its dependencies. adversarial-library
imports torchvision (a perceptual distance) and visdom (plots) with its attacks; neither is used here, and
placeholders stand in for them while it is imported.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Misclassified images that are as near to `x` as the attack could find."""

_UNUSED = ("torchvision", "torchvision.models", "visdom")


def foolbox_attacks(norm: str) -> dict[str, Search]:
    """Minimum-norm attacks of foolbox."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, about an attack that is not used here
        import foolbox

    attacks = foolbox.attacks
    each: dict[str, Any] = {
        "Linf": {
            "DeepFool": attacks.LinfDeepFoolAttack(steps=50),
            "FMN-100": attacks.LInfFMNAttack(steps=100),
        },
        "L2": {
            "DeepFool": attacks.L2DeepFoolAttack(steps=50),
            "FMN-100": attacks.L2FMNAttack(steps=100),
            "DDN-100": attacks.DDNAttack(steps=100),
        },
    }[norm]
    return {f"foolbox {name}": partial(_by_foolbox, attack) for name, attack in each.items()}


def foolbox_pgd(norm: str, steps: int) -> Callable[[float], Search]:
    """Projected gradient descent of foolbox with a step of a quarter of the radius, by the radius."""
    import foolbox

    kinds = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}
    attack = kinds[norm](rel_stepsize=0.25, steps=steps)
    return lambda radius: partial(_by_foolbox, attack, radius=radius)


def _by_foolbox(attack: Any, network: nn.Module, x: Tensor, y: Tensor, radius: float | None = None) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    x_adv = attack(model, x, y, epsilons=radius)[1]
    assert isinstance(x_adv, Tensor)
    return x_adv


def library_attacks(norm: str) -> dict[str, Search]:
    """Minimum-norm attacks of adversarial-library, set as in AttackBench but for their steps."""
    attacks = _library()
    p = {"Linf": torch.inf, "L2": 2.0}[norm]
    each: dict[str, Any] = {
        "FMN-500": partial(attacks.fmn, norm=p, steps=500),
        "TR-100": partial(attacks.tr, p=p, iter=100),
        "PDPGD-200": partial(attacks.pdpgd, norm=p, num_steps=200),
    }
    if norm == "L2":
        del each["PDPGD-200"]
        each["PDGD-200"] = partial(attacks.pdgd, num_steps=200)
        each["DDN-100"] = partial(attacks.ddn, steps=100, levels=None)
        each["ALMA-200"] = partial(attacks.alma, distance="l2", num_steps=200, init_lr_distance=1)
        each["SuperDeepFool"] = attacks.sdf
    return {f"adv-lib {name}": partial(_by_library, attack) for name, attack in each.items()}


def _by_library(attack: Callable[..., Tensor], network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return attack(network, x.clone(), y).detach()


def _library() -> Any:
    """The attacks of adversarial-library."""
    placeholders: dict[str, ModuleType] = {
        name: MagicMock(name=name) for name in _UNUSED if name not in sys.modules
    }
    sys.modules |= placeholders
    try:
        import adv_lib.attacks
    finally:
        for name in placeholders:
            del sys.modules[name]
    return adv_lib.attacks
