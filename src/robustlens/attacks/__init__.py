"""Attacks: each is one file, a frozen recipe for adversarial images.

To add one, write it against `Attack` and add a line to `ATTACKS`; the contract tests take it from there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustlens.attacks.apgd import APGD
from robustlens.attacks.base import Attack, tries_of
from robustlens.attacks.ensemble import Ensemble
from robustlens.attacks.fab import FAB
from robustlens.attacks.minimum_norm import MinimumNorm
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.attacks.square import Square
from robustlens.attacks.suites import SUITES
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

__all__ = [
    "APGD",
    "ATTACKS",
    "FAB",
    "FGSM",
    "PGD",
    "SUITES",
    "Attack",
    "Ensemble",
    "Entry",
    "MinimumNorm",
    "Square",
    "chosen",
    "get",
    "names",
    "note",
    "suites_in",
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
    "apgd-ce": Entry(
        lambda threat, steps, restarts, seed: APGD(
            threat, steps, restarts=restarts, stop_at_success=True, seed=seed
        ),
        steps=100,
    ),
    "apgd-dlr": Entry(
        lambda threat, steps, restarts, seed: APGD(
            threat, steps, restarts=restarts, loss="dlr", stop_at_success=True, seed=seed
        ),
        steps=100,
    ),
    "apgd-t": Entry(
        lambda threat, steps, restarts, seed: APGD(
            threat, steps, restarts=restarts, loss="dlr", targets=9, stop_at_success=True, seed=seed
        ),
        steps=100,
    ),
    "fab": Entry(
        lambda threat, steps, restarts, seed: FAB(
            threat, steps, restarts=restarts, stop_at_success=True, seed=seed
        ),
        steps=100,
    ),
    "fab-t": Entry(
        lambda threat, steps, restarts, seed: FAB(
            threat, steps, restarts=restarts, targets=9, stop_at_success=True, seed=seed
        ),
        steps=100,
    ),
    "square": Entry(
        lambda threat, steps, restarts, seed: Square(threat, steps, restarts=restarts, seed=seed),
        steps=5000,
    ),
    "min-norm": Entry(
        lambda threat, steps, restarts, seed: MinimumNorm(threat, steps, restarts=restarts, seed=seed),
        steps=100,
    ),
}
"""Attacks by name. "pgd-20" is `pgd` with 20 steps; "cw" climbs the margin; steps of "square" are queries."""


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


def names(attacks: str | Sequence[str], threat: ThreatModel | None = None) -> tuple[str, ...]:
    """The names of attacks and suites that a plan keeps; "a,b" is two. "fast" becomes its attacks.

    Raises:
        ConfigError: as `chosen`.
    """
    listed = attacks.split(",") if isinstance(attacks, str) else attacks
    some = threat or ThreatModel("Linf", 0.0)
    fast = tuple(SUITES["fast"](some, 1, 0))
    spelled = tuple(name for item in listed for name in (fast if item == "fast" else (item,)))
    chosen(spelled, some)
    return spelled


def suites_in(attacks: str | Sequence[str | Attack], threat: ThreatModel) -> dict[str, tuple[str, ...]]:
    """The suites among `attacks`, each with the names of its attacks."""
    listed = (attacks,) if isinstance(attacks, str) else attacks
    asked = [item for item in listed if isinstance(item, str) and item in SUITES]
    return {name: tuple(SUITES[name](threat, 1, 0)) for name in asked}


def note(attack: Attack, classes: int) -> str | None:
    """What the attack does otherwise for this number of classes, in words, or None."""
    says: Callable[[int], str | None] = getattr(attack, "note", lambda classes: None)
    return says(classes)


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
