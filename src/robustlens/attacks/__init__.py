"""Attacks: each is one file, a frozen recipe for adversarial images.

To add one, write it against `Attack` and add a line to `ATTACKS`; the contract tests take it from there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustlens.attacks.base import Attack, tries_of
from robustlens.attacks.ensemble import Ensemble
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "SUITES",
    "Attack",
    "Ensemble",
    "Entry",
    "chosen",
    "get",
    "suite",
    "tries_of",
]


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

Suite = Callable[[ThreatModel, int, int], dict[str, Attack]]
"""(threat, restarts, seed) -> attacks by name, in the order in which they run."""


def _fast(threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    names = ("fgsm", "pgd-20", "cw-20")
    return {name: get(name, threat, restarts=restarts, seed=seed) for name in names}


SUITES: dict[str, Suite] = {"fast": _fast}
"""Attacks by purpose. "fast" is the cheap one, for use during training."""


def get(name: str, threat: ThreatModel, *, restarts: int = 1, seed: int = 0) -> Attack:
    """The attack `name`, e.g. "fgsm", "pgd-20", "apgd-ce" or "apgd-t-50", as an evaluation uses it.

    The name of a suite gives all its attacks as one `Ensemble`.

    Raises:
        ConfigError: unknown name.
    """
    if name in SUITES:
        return Ensemble(tuple(SUITES[name](threat, restarts, seed).values()))
    base, count = name, ""
    if name not in ATTACKS:
        base, _, count = name.rpartition("-")
    entry = ATTACKS.get(base)
    if entry is None or (count and (entry.steps is None or not re.fullmatch(r"[1-9]\d*", count))):
        known = ", ".join([*SUITES, *ATTACKS])
        raise ConfigError(f"attacks: found {name!r}, expected one of {known}, with -STEPS where it has steps")
    return entry.build(threat, int(count) if count else entry.steps or 1, restarts, seed)


def suite(attacks: str | Sequence[str], threat: ThreatModel | None = None) -> tuple[str, ...]:
    """Names of the attacks of suites and names, in order; `ConfigError` as `chosen`."""
    return tuple(chosen(attacks, threat or ThreatModel("Linf", 0.0)))


def chosen(
    attacks: str | Sequence[str | Attack], threat: ThreatModel, *, restarts: int = 1, seed: int = 0
) -> dict[str, Attack]:
    """The attacks of an evaluation by name, in order: suites, names, or attacks that you have built.

    `restarts` go to the named attacks and to "fast"; suites with a published budget keep theirs. An attack of
    yours is called after its class, with a number where that name is taken.

    Raises:
        ConfigError: unknown name, none at all, or one name twice.
    """
    found: dict[str, Attack] = {}
    for item in (attacks,) if isinstance(attacks, str) else attacks:
        if not isinstance(item, str):
            name = type(item).__name__.lower()
            taken = sum(known == name or known.startswith(f"{name}#") for known in found)
            parts = {f"{name}#{taken + 1}" if taken else name: item}
        elif item in SUITES:
            parts = SUITES[item](threat, restarts, seed)
        else:
            parts = {item: get(item, threat, restarts=restarts, seed=seed)}
        twice = next((name for name in parts if name in found), None)
        if twice:
            raise ConfigError(f"attacks: found {twice!r} twice")
        found |= parts
    if not found:
        raise ConfigError(f"attacks: found none, expected names or one of the suites {', '.join(SUITES)}")
    return found
