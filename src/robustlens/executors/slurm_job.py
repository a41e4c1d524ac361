"""The side of Slurm's jobs: a run carried out, and queued again where Slurm takes the machine back."""

import contextlib
import importlib
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustlens import stopping
from robustlens.errors import StoppedError
from robustlens.executors.jobs import Outcome, Sender, carry_out
from robustlens.executors.places import Place
from robustlens.executors.setbacks import Reached
from robustlens.machine import keep_memory
from robustlens.progress import Event

_EVERY = 2.0  # seconds between two events of a run, which are writes to a shared disk
_EVENT = TypeAdapter(Event)


@dataclass(frozen=True)
class SlurmTask:
    """What a job of the array does.

    Attributes:
        run: its name. pickled: the jobs of the run. place: of the study. threads: of torch.
        gpu: whether it may use one. events: the file that takes them.
    """

    run: str
    pickled: bytes
    place: Place
    threads: int
    gpu: bool
    events: str

    def __call__(self) -> Outcome:
        """Carry out the jobs; where Slurm takes the machine back, save, and queue again what got further."""
        problem = self.place.problem()
        if problem:
            return Outcome(self.run, f"{self.run}: {problem}", 5)
        self.place.enter()
        os.environ |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if not self.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_memory()
        before = self._reached()
        taken_back: list[int] = []
        queue_again = signal.getsignal(signal.SIGUSR2)

        def stop(number: int, frame: FrameType | None) -> None:
            taken_back.append(number)
            stopping.terminate()

        # Slurm sends SIGTERM before or after it, once or twice, and ends a job that takes too long.
        with stopping.handled(worker=True):
            signal.signal(signal.SIGUSR2, stop)
            signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # of submitit's local jobs
            try:
                outcome = carry_out(self.run, partial(pickle.loads, self.pickled), Sender(self._tell, _EVERY))
            finally:
                signal.signal(signal.SIGUSR2, queue_again)
        was_stopped = taken_back and outcome.exit_code == StoppedError.exit_code
        if was_stopped and self._reached() != before and callable(queue_again):
            queue_again(taken_back[0], None)  # submitit's, which ends this process
        return outcome

    def _reached(self) -> dict[str, int]:
        """How far the run has come, in this job and in those before it."""
        reached = Reached()
        for event in events_in(Path(self.events).read_bytes()):
            reached.further(event)
        return reached.most

    def checkpoint(self) -> Any:
        """What submitit queues again: the same, since all progress is in the run's folder."""
        return importlib.import_module("submitit.helpers").DelayedSubmission(self)

    def _tell(self, event: Event) -> None:
        with Path(self.events).open("ab") as file:
            file.write(_EVENT.dump_json(event) + b"\n")


def events_in(lines: bytes) -> Iterator[Event]:
    """The events of lines, but of one that a job was killed in the midst of."""
    for line in lines.splitlines():
        with contextlib.suppress(ValidationError):
            yield _EVENT.validate_json(line)


class Tail:
    """The lines that were added to a file since they were last read."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0

    def passed_to(self, listen: Callable[[Event], None]) -> None:
        """Pass on the events of whole lines."""
        with self.path.open("rb") as file:
            file.seek(self.read)
            lines, line_end, _ = file.read().rpartition(b"\n")
        self.read += len(lines) + len(line_end)
        for event in events_in(lines):
            listen(event)
