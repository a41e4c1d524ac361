"""Attacks: each is one file, a frozen recipe for adversarial images.

To add one, write it against `Attack` and add a line to `ATTACKS`; the contract tests take it from there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustlens.attacks.base import Attack
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

__all__ = ["ATTACKS", "FGSM", "PGD", "SUITES", "Attack", "Entry", "chosen", "get", "suite"]


@dataclass(frozen=True)
class Entry:
    """A registered attack: how an evaluation builds it, and its usual steps (None where it has no steps)."""

    build: Callable[[ThreatModel, int, int, int], Attack]
    """(threat, steps, restarts, seed) -> the attack."""
    steps: int | None = None


ATTACKS: dict[str, Entry] = {
    "fgsm": Entry(lambda threat, steps, restarts, seed: FGSM(threat, seed=seed)),
    "pgd": Entry(
        lambda threat, steps, restarts, seed: PGD(
            threat, steps, restarts=restarts, stop_at_success=True, seed=seed
        ),
        steps=20,
    ),
    "cw": Entry(
        lambda threat, steps, restarts, seed: PGD(
            threat, steps, restarts=restarts, loss="margin", stop_at_success=True, seed=seed
        ),
        steps=20,
    ),
}
"""Attacks by name. "pgd-20" is `pgd` with 20 steps; "cw" is PGD on the margin loss."""

SUITES: dict[str, tuple[str, ...]] = {"fast": ("fgsm", "pgd-20", "cw-20")}
"""Attacks by purpose, in the order in which they run."""


def get(name: str, threat: ThreatModel, *, restarts: int = 1, seed: int = 0) -> Attack:
    """The attack `name`, e.g. "fgsm", "pgd-20" or "cw-20", as an evaluation uses it.

    Raises:
        ConfigError: unknown name.
    """
    base, dash, count = name.partition("-")
    entry = ATTACKS.get(base)
    countable = entry is not None and entry.steps is not None and re.fullmatch(r"[1-9]\d*", count)
    if entry is None or (dash and not countable):
        known = ", ".join(ATTACKS)
        raise ConfigError(f"attacks: found {name!r}, expected one of {known}, with -STEPS where it has steps")
    return entry.build(threat, int(count) if dash else entry.steps or 1, restarts, seed)


def suite(attacks: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the attacks of a suite ("fast"), or the given names; `ConfigError` as `chosen`."""
    return tuple(chosen(attacks, ThreatModel("Linf", 0.0)))


def chosen(
    attacks: str | Sequence[str | Attack], threat: ThreatModel, *, restarts: int = 1, seed: int = 0
) -> dict[str, Attack]:
    """The attacks of an evaluation by name, in order: a suite, names, or attacks that you have built.

    An attack of yours is called after its class, with a number where that name is taken.

    Raises:
        ConfigError: unknown name, none at all, or one name twice.
    """
    found: dict[str, Attack] = {}
    for item in SUITES.get(attacks, (attacks,)) if isinstance(attacks, str) else attacks:
        if isinstance(item, str):
            name, attack = item, get(item, threat, restarts=restarts, seed=seed)
            if name in found:
                raise ConfigError(f"attacks: found {name!r} twice")
        else:
            name, attack = type(item).__name__.lower(), item
            taken = sum(known == name or known.startswith(f"{name}#") for known in found)
            name = f"{name}#{taken + 1}" if taken else name
        found[name] = attack
    if not found:
        raise ConfigError(f"attacks: found none, expected names or one of the suites {', '.join(SUITES)}")
    return found
