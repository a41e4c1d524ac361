"""Offers of this machine, and whether the installation computes right."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from robustlens import machine
from robustlens.attacks import PGD
from robustlens.extras import install_extra
from robustlens.threat import ThreatModel
from robustlens.version import __version__
from robustlens.weights import AdversarialWeightPerturbation

EXTRAS = {"hub": "datasets", "cluster": "ray"}
"""Optional extras and the package that shows whether each is there."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    text: str
    fine: bool = True


def examine() -> list[Finding]:
    """Every finding: versions, devices, disk, extras, and small computations with known answers."""
    versions, others = machine.environment(machine.device()), len(machine.devices()) - 1
    device = versions["device"] + (f" and {others} more" if others > 0 else "")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    folder = os.environ.get("ROBUSTLENS_DATA")
    return [
        Finding("robustlens", f"{__version__}, torch {versions['torch']}, Python {versions['python']}"),
        Finding("device", f"{device}, {torch.get_num_threads()} threads"),
        Finding("disk", f"{free:.1f} GB free here", fine=free > 1),
        Finding("ROBUSTLENS_DATA", folder or "not set", fine=folder is None or Path(folder).is_dir()),
        *(_extra(name, package) for name, package in EXTRAS.items()),
        *(_computed(name, check) for name, check in CHECKS.items()),
    ]


def _extra(name: str, package: str) -> Finding:
    there = importlib.util.find_spec(package) is not None
    return Finding(f"extra {name}", "installed" if there else f"absent; {install_extra(name)}")


def _computed(name: str, check: Callable[[], bool]) -> Finding:
    fine = check()
    return Finding(name, "right" if fine else "WRONG: do not trust results of this installation", fine)


def _attack_is_exact() -> bool:
    """PGD on a linear classifier lowers its margin by eps times the L1 norm of the weight difference."""
    linear = nn.Linear(16, 2).requires_grad_(False)
    with torch.no_grad():
        linear.weight.copy_(torch.linspace(-1, 1, 32).view(2, 16).roll(5, 1))
    x, y = torch.full((4, 16), 0.5), torch.zeros(4, dtype=torch.int64)
    x_adv = PGD(ThreatModel("Linf", 0.1))(linear, x, y)
    fall = linear(x)[:, 0] - linear(x)[:, 1] - linear(x_adv)[:, 0] + linear(x_adv)[:, 1]
    exact = 0.1 * (linear.weight[0] - linear.weight[1]).abs().sum()
    return bool(torch.allclose(fall, exact.expand(4), rtol=1e-4))


def _weights_come_back() -> bool:
    """Weight perturbation moves the weights and restores them bit for bit."""
    linear = nn.Linear(16, 4)
    before = linear.weight.detach().clone()
    awp = AdversarialWeightPerturbation(linear, gamma=0.1)
    with awp.perturbed(lambda: linear(torch.ones(1, 16)).square().sum()):
        moved = not torch.equal(before, linear.weight)
    return moved and torch.equal(before, linear.weight)


CHECKS = {"attack on a linear model": _attack_is_exact, "weights restored": _weights_come_back}
"""Small computations with known answers."""
