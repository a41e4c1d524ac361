"""Suites: attacks by purpose, in the order in which they run, each on the survivors of those before.

`standard`, `plus` and `rand` are AutoAttack's (Croce and Hein 2020, section 5, and the authors' release) with
the published budgets and no parameter to choose. For L1 they follow Croce and Hein 2021: five restarts of
APGD on cross entropy, and five target classes for APGD.
"""

from collections.abc import Callable
from dataclasses import replace

from robustlens.attacks.apgd import APGD
from robustlens.attacks.base import Attack
from robustlens.attacks.fab import FAB
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.attacks.square import Square
from robustlens.threat import ThreatModel

Suite = Callable[[ThreatModel, int, int], dict[str, Attack]]
"""(threat, restarts, seed) -> attacks by name. Suites with a published budget do not take `restarts`."""


def fast(threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    """FGSM, PGD-20 on cross entropy, PGD-20 on the margin: cheap, for use during training."""
    pgd = PGD(threat, steps=20, restarts=restarts, stop_at_success=True, seed=seed)
    return {"fgsm": FGSM(threat, seed=seed), "pgd-20": pgd, "cw-20": replace(pgd, loss="margin")}


def standard(threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    """AutoAttack as the field reports it: two gradient attacks, a minimum-norm one, a score-based one."""
    sparse = threat.norm == "L1"
    return {
        "apgd-ce": APGD(threat, restarts=5 if sparse else 1, stop_at_success=True, seed=seed),
        "apgd-t": APGD(threat, loss="dlr", targets=5 if sparse else 9, stop_at_success=True, seed=seed),
        "fab-t": FAB(threat, targets=9, stop_at_success=True, seed=seed),
        "square": Square(threat, seed=seed),
    }


def plus(threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    """AutoAttack's longest version: five restarts, untargeted and targeted."""
    return {
        "apgd-ce": APGD(threat, restarts=5, stop_at_success=True, seed=seed),
        "apgd-dlr": APGD(threat, loss="dlr", restarts=5, stop_at_success=True, seed=seed),
        "fab": FAB(threat, restarts=5, stop_at_success=True, seed=seed),
        "square": Square(threat, seed=seed),
        "apgd-t": APGD(threat, loss="dlr", targets=9, stop_at_success=True, seed=seed),
        "fab-t": FAB(threat, targets=9, stop_at_success=True, seed=seed),
    }


def rand(threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    """AutoAttack for randomised models: gradients averaged over 20 passes (EOT)."""
    return {
        "apgd-ce": APGD(threat, eot=20, stop_at_success=True, seed=seed),
        "apgd-dlr": APGD(threat, loss="dlr", eot=20, stop_at_success=True, seed=seed),
    }


SUITES: dict[str, Suite] = {"fast": fast, "standard": standard, "plus": plus, "rand": rand}
