"""How long work tells what it is doing: it calls a listener with events, and never prints."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`done` of `total` units of `phase` are finished; `note` is a few words, e.g. the loss."""

    phase: str
    done: int
    total: int
    note: str = ""


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that hears nothing."""
