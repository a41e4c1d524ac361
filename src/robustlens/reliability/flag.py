"""A flag, and a kind of flag: what raises it, what it means, what to do."""

from collections.abc import Callable
from dataclasses import dataclass

from robustlens.reliability.diagnostics import Diagnostics


@dataclass(frozen=True)
class Flag:
    """A reason to doubt an evaluation.

    Attributes:
        name: of its kind.
        message: in one line what was seen, what it means and what to do.
        raised_if: when the flag goes up.
        means: what that makes of the numbers.
        todo: what to do.
    """

    name: str
    message: str
    raised_if: str = ""
    means: str = ""
    todo: str = ""


@dataclass(frozen=True)
class Check:
    """One way in which an evaluation goes wrong.

    Attributes:
        check: returns what it saw, in words, or None where all is well.
        raised_if, means, todo: as of its `Flag`.
        attacks: whether the check attacks, and so needs to know the threat model.
    """

    check: Callable[[Diagnostics], str | None]
    raised_if: str
    means: str
    todo: str
    attacks: bool = False

    def flag(self, name: str, seen: str) -> Flag:
        """The flag for what was seen."""
        return Flag(name, f"{seen}; {self.means}; {self.todo}", self.raised_if, self.means, self.todo)
