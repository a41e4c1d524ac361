"""What a cluster does to a run that is no error of its own: its worker is lost, or its folder still held.

A run that is lost goes on elsewhere, from what it has saved; one that is lost again and again without getting
further has failed.
"""

import time
from collections.abc import Callable

from robustlens.errors import LockedError
from robustlens.executors.jobs import Outcome
from robustlens.progress import Event
from robustlens.results.locks import LIMIT

REFUSED = LIMIT + 30
"""Seconds for which a run asks for a folder that another holds: the lease of one that is gone ends before."""


class Reached:
    """How far a run has come: the most that it told of in each phase."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}

    def further(self, event: Event) -> bool:
        """Take in an event; whether it tells of more than those before it."""
        if event.done <= self.most.get(event.phase, 0):
            return False
        self.most[event.phase] = event.done
        return True


class Setbacks:
    """Setbacks of the runs of one call, and whether a run goes on after one.

    Args:
        retries: how often a run may be lost before it has failed. One that has got further since then may be
            lost as often again.
        listen: hears (run, event).
    """

    def __init__(self, retries: int, listen: Callable[[str, Event], None]) -> None:
        self.retries, self.listen = retries, listen
        self.losses: dict[str, int] = {}
        self.reached: dict[str, Reached] = {}
        self.refused: dict[str, float] = {}  # since when

    def hear(self, run: str, event: Event) -> None:
        """Pass on what a worker tells of its run."""
        if self.reached.setdefault(run, Reached()).further(event):
            self.losses.pop(run, None)
        self.listen(run, event)

    def lost(self, run: str, why: str) -> Outcome | None:
        """Take in that a run was lost: how it ended, or None where it goes on."""
        self.refused.pop(run, None)  # from now on it may be the lease of this worker that refuses
        losses = self.losses[run] = self.losses.get(run, 0) + 1
        if losses > self.retries:
            times = "once" if losses == 1 else f"{losses} times"
            return Outcome(run, f"{run}: lost its worker {times} ({why}); look at that machine", 5)
        self.listen(run, Event("lost its worker", losses, self.retries, why))
        return None

    def may_ask_again(self, outcome: Outcome) -> bool:
        """Whether a run ended because of a lease that will end, that of a worker that is gone."""
        if outcome.exit_code != LockedError.exit_code:
            self.refused.pop(outcome.name, None)
            return False
        since = self.refused.setdefault(outcome.name, time.monotonic())
        return time.monotonic() - since < REFUSED
