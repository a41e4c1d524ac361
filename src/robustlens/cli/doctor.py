"""Offers of this machine, whether the installation computes right, and whether attacks work on a network."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from robustlens import attacks, machine, reliability
from robustlens.attacks import PGD
from robustlens.cli import arguments
from robustlens.cli.display import NamedListener
from robustlens.cli.options import NetworkOptions, SubjectOptions
from robustlens.errors import ConfigError
from robustlens.extras import install_extra
from robustlens.stats.intervals import Interval
from robustlens.threat import ThreatModel
from robustlens.version import __version__
from robustlens.weights import AdversarialWeightPerturbation

EXTRAS = {"hub": "datasets", "cluster": "ray"}
"""Optional extras and the package that shows whether each is there."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        name: of what was looked at. text: what was seen. fine: whether it is as it should be.
        share: of the planted images that an attack or a suite found, with its interval; None of what counts
            none.
    """

    name: str
    text: str
    fine: bool = True
    share: Interval | None = None


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


def examine_attacks(
    model: str,
    subject: SubjectOptions,
    network: NetworkOptions,
    suite: str,
    *,
    examples: int,
    seed: int,
    listen: NamedListener,
) -> list[Finding]:
    """Findings of `reliability.planted` on test images: one for each attack and suite.

    The last one counts: all that was asked for together. What one attack misses another may find.
    """
    if network.devices is not None:
        raise ConfigError("--devices: found with doctor, which takes one; expected --device")
    names = attacks.names(suite)
    chosen = arguments.resolve_model(model, subject, network, None)
    images = chosen.splits.test.take(min(examples, len(chosen.splits.test)), seed)
    threat, listener = ThreatModel.of(chosen.threat), partial(listen, "doctor")
    planting = reliability.planted(chosen.network(), images.x(), threat, names, seed=seed, progress=listener)
    whole = list(planting.together)[-1]
    said = [
        Finding(
            name,
            planting.sentence(name),
            planting.is_believed(name) or name != whole,
            planting.interval(name),
        )
        for name in planting.together
    ]
    planted = f"{planting.images} of {planting.images + planting.skipped} images"
    return [Finding("planted", f"one adversarial image in the ball of {planted}"), *said]


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
