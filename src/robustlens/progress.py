"""Events by which long work says how far it is: it calls a listener, and never prints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """`done` of `total` units of `phase` are finished; `note` is a few words, e.g. the loss.

    An event that carries `metrics` (numbers by name, at `step`) is passed on by every listener in between;
    others may be left out where they come too fast to be read.
    """

    phase: str
    done: int
    total: int
    note: str = ""
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that hears nothing."""
