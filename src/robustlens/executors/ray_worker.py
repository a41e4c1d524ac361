"""The side of Ray's workers: a job carried out, its events sent home, and an end where nobody asks for it."""

import importlib
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from robustlens import stopping
from robustlens.executors.jobs import Job, Outcome, Sender, Shared, carry_out
from robustlens.executors.places import Place
from robustlens.machine import keep_memory
from robustlens.progress import Event

_BEAT = 1.0  # seconds between two questions of a worker whether to go on
_SILENCE = 60.0  # seconds without an answer after which it stops


class Coordinator:
    """Where workers send their events and ask whether their job is still theirs."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.current: dict[str, int] = {}

    def assign(self, run: str, number: int) -> None:
        """Let this attempt at a run be the one that counts."""
        self.current[run] = number

    def is_current(self, run: str, number: int) -> bool:
        """Whether a worker may go on with its attempt."""
        return self.current.get(run) == number

    def tell(self, run: str, number: int, event: Event) -> None:
        """Take in an event of the attempt that counts."""
        if self.is_current(run, number):
            self.events.append((run, event))

    def take(self) -> list[tuple[str, Event]]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        """Let nobody go on."""
        self.current = {}


def carry_out_there(
    pickled: bytes, data: Sequence[Any], coordinator: Any, run: str, number: int, place: Place
) -> Outcome:
    """The task: jobs carried out in a worker of Ray.

    Args:
        pickled: the jobs.
        data: for each `Shared` argument of theirs, a reference to its value, or None.
        coordinator: the actor that takes events.
        run: name of the run.
        number: of this attempt at it.
        place: of the study.
    """
    ray = importlib.import_module("ray")
    problem = place.problem()
    if problem:
        return Outcome(run, f"{run}: {problem}", 5)
    place.enter()
    keep_memory()

    def load() -> Sequence[Job]:
        jobs: Sequence[Job] = pickle.loads(pickled)
        shared = [one for job in jobs for one in job.arguments if isinstance(one, Shared)]
        for one, reference in zip(shared, data, strict=True):
            if reference is not None:
                one.make = partial(_awaited, reference)
        return jobs

    with stopping.handled(worker=True):
        ended = threading.Event()
        ask = partial(_answer, ray, coordinator, run, number)
        watcher = threading.Thread(target=stop_when_refused, args=(ask, ended), daemon=True)
        watcher.start()
        try:
            return carry_out(run, load, Sender(partial(coordinator.tell.remote, run, number), every=0.5))
        finally:
            ended.set()
            watcher.join()


def _awaited(reference: Any, timeout: float | None = None) -> Any:
    """The value of a reference. `ray.get` would give the worker's CPUs to another task while it waits."""
    return reference.future().result(timeout)


def _answer(ray: Any, coordinator: Any, run: str, number: int) -> bool | None:
    """Whether to go on; None where there is no answer yet."""
    try:
        return bool(_awaited(coordinator.is_current.remote(run, number), timeout=10))
    except (TimeoutError, ray.exceptions.ActorUnavailableError):
        return None
    except ray.exceptions.RayError:  # the study is gone
        return False


def stop_when_refused(ask: Callable[[], bool | None], ended: threading.Event) -> None:
    """Ask every second whether to go on, and stop this process's job where the answer is no, or none comes.

    Args:
        ask: gives the answer; None where there is none yet.
        ended: set when the job has ended.
    """
    heard = time.monotonic()
    while not ended.wait(_BEAT):
        answer = ask()
        heard = time.monotonic() if answer else heard
        if answer is False or time.monotonic() - heard > _SILENCE:
            stopping.terminate()
            return
