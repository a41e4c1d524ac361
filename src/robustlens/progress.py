"""Events by which long work says how far it is: it calls a listener, and never prints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace


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


DONE, ENDED = "done", "ended"
"""Phases of the last event of a run of a study: all its work is done, or it failed."""

Listener = Callable[[Event], None]
"""Whatever hears events: a function, or an object with `__call__`."""


def to_all(listeners: Sequence[Listener]) -> Listener:
    """One listener that tells several, in order; others may join the list later."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen


def of_part(listen: Listener, part: object) -> Listener:
    """A listener that puts the name of a part of the work before each phase; as it is for None."""
    return listen if part is None else lambda event: listen(replace(event, phase=f"{part} {event.phase}"))


def silent(event: Event) -> None:
    """The listener that hears nothing."""
