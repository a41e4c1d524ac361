"""Attacks by name: how an evaluation builds them, alone and in suites."""

from collections.abc import Callable, Sequence
from typing import Any

from robustlens.attacks.adaptive_minimum_norm import AdaptiveMinimumNorm
from robustlens.attacks.apgd import APGD
from robustlens.attacks.base import Attack
from robustlens.attacks.ensemble import Ensemble
from robustlens.attacks.fab import FAB
from robustlens.attacks.minimum_norm import MinimumNorm
from robustlens.attacks.pgd import FGSM, PGD
from robustlens.attacks.square import Square
from robustlens.attacks.suites import SUITES
from robustlens.errors import ConfigError
from robustlens.factories import without_steps
from robustlens.registry import Registry, parameters_of
from robustlens.threat import ThreatModel, checked_threat


class Entry:
    """A registered attack: its class (or a factory), and the options that make it the attack of this name.

    Its steps, restarts and seed are the caller's, as far as its signature takes them.

    Args:
        build: called with the threat model and options.
        options: of the call; what is left out is as `build` has it, the usual steps among it.
    """

    def __init__(self, build: Callable[..., Attack], **options: Any) -> None:
        self.build, self.options = build, options

    @property
    def count(self) -> str | None:
        """The parameter that -STEPS in the name sets, gradient steps or queries; None without one."""
        return next((name for name in ("steps", "queries") if name in parameters_of(self.build)), None)

    def __call__(self, threat: ThreatModel, **options: Any) -> Attack:
        """The attack, with `options` in place of its own; those that `build` does not take are left out."""
        taken = parameters_of(self.build)
        given = {name: value for name, value in options.items() if name in taken}
        return self.build(threat, **self.options | given)


ATTACKS: Registry[Entry] = Registry(
    "attacks",
    {
        "fgsm": Entry(FGSM),
        "pgd": Entry(PGD, stop_at_success=True),
        "cw": Entry(PGD, loss="margin", stop_at_success=True),
        "apgd-ce": Entry(APGD, stop_at_success=True),
        "apgd-dlr": Entry(APGD, loss="dlr", stop_at_success=True),
        "apgd-t": Entry(APGD, loss="dlr", targets=9, stop_at_success=True),
        "fab": Entry(FAB, stop_at_success=True),
        "fab-t": Entry(FAB, targets=9, stop_at_success=True),
        "square": Entry(Square),
        "min-norm": Entry(MinimumNorm),
        "min-norm-adaptive": Entry(AdaptiveMinimumNorm),
    },
    factories=True,
    other_names=(*SUITES, "NAME-STEPS"),
    result_type=Attack,
)
"""Attacks by name. "pgd-50" is `pgd` with 50 steps; "cw" is PGD on the margin; "square" counts queries."""


def get(name: str, threat: ThreatModel, *, restarts: int = 1, seed: int = 0) -> Attack:
    """The attack `name`, e.g. "fgsm", "pgd-20", "apgd-ce" or "apgd-t-50", as an evaluation uses it.

    The name of a suite gives all its attacks as one `Ensemble`. "package.module:factory" is an attack of
    yours, called with the threat model and, of steps, restarts and seed, what its signature takes.

    Raises:
        ConfigError: unknown name.
    """
    checked_threat(threat, "attacks")
    if name in SUITES:
        return Ensemble(tuple(_suite(name, threat, restarts, seed).values()))
    return _build(name, threat, restarts=restarts, seed=seed)


def names(attacks: str | Sequence[str], threat: ThreatModel | None = None) -> tuple[str, ...]:
    """The names of attacks and suites that a plan keeps; "a,b" is two. "fast" becomes its attacks.

    Raises:
        ConfigError: as `chosen`.
    """
    listed = attacks.split(",") if isinstance(attacks, str) else attacks
    spelled = tuple(
        name for item in listed for name in (SUITES["fast"].members if item == "fast" else (item,))
    )
    chosen(spelled, threat or ThreatModel("Linf", 0.0))
    return spelled


def suites_in(attacks: str | Sequence[str | Attack]) -> dict[str, tuple[str, ...]]:
    """The suites among `attacks`, each with the names of its attacks."""
    listed = (attacks,) if isinstance(attacks, str) else attacks
    asked = [item for item in listed if isinstance(item, str) and item in SUITES]
    return {name: tuple(SUITES[name].members) for name in asked}


def note(attack: Attack, classes: int) -> str | None:
    """A sentence on where the attack departs from its settings for so few classes, or None."""
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
    together: dict[str, Attack] = {}
    for item in (attacks,) if isinstance(attacks, str) else attacks:
        if not isinstance(item, str):
            name = type(item).__name__.lower()
            taken = sum(known == name or known.startswith(f"{name}#") for known in together)
            added = {f"{name}#{taken + 1}" if taken else name: item}
        elif item in SUITES:
            added = _suite(item, threat, restarts, seed)
        else:
            added = {item: _build(item, threat, restarts=restarts, seed=seed)}
        twice = next((name for name in added if name in together), None)
        if twice:
            raise ConfigError(f"attacks: found {twice!r} twice")
        together |= added
    if not together:
        raise ConfigError(f"attacks: found none, expected names or one of the suites {', '.join(SUITES)}")
    return together


def _suite(name: str, threat: ThreatModel, restarts: int, seed: int) -> dict[str, Attack]:
    members = SUITES[name].options(threat, restarts)
    return {member: _build(member, threat, seed=seed, **options) for member, options in members.items()}


def _build(name: str, threat: ThreatModel, **options: Any) -> Attack:
    """The attack of a name that may end with -STEPS."""
    base, steps = (name, None) if name in ATTACKS else without_steps(name)
    entry = ATTACKS.find(base)
    entry = entry if isinstance(entry, Entry) else Entry(entry)
    if steps is not None:
        if entry.count is None:
            raise ConfigError(f"attacks: found {name!r}, but {base!r} has no steps; expected {base!r}")
        options[entry.count] = steps
    return ATTACKS.call(base, entry, threat, **options)
