"""Runs as an array of Slurm jobs, through submitit: one for each run, with all its stages.

Slurm has no way back to the study, so events are lines of a file beside the logs, which all machines see. A
job that nears its time limit, or is preempted, saves its work, is queued again and goes on there; one that is
lost is submitted again.
"""

import contextlib
import importlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from robustlens import stopping
from robustlens.errors import ConfigError, ResourceError, StoppedError
from robustlens.executors.jobs import Job, Outcome, Sender, by_run, carry_out, cluster_package
from robustlens.executors.places import Place
from robustlens.machine import keep_memory
from robustlens.progress import Event

_EVERY = 2.0  # seconds between two events of a run, which are writes to a shared disk
_EVENT = TypeAdapter(Event)
_COMMON = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")


class Slurm:
    """Runs jobs on a Slurm cluster.

    Args:
        folder: for logs, events and what submitit keeps, on a disk that all machines see.
        workers: runs at a time; None leaves them to Slurm.
        threads: of each run, so many CPUs.
        gpus: of each run, 0 or 1.
        memory: bytes of each run; 0 for Slurm's default.
        parameters: of submitit's `update_parameters`; the prefix "slurm_" may be left out. By default a run
            has 24 hours before it is queued again.
        cluster: "slurm", or submitit's "local" and "debug" for trying out.
        retries: how often a run may be lost before it has failed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int | None = None,
        threads: int = 1,
        gpus: int = 0,
        memory: int = 0,
        parameters: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
        retries: int = 3,
    ) -> None:
        self.folder, self.cluster, self.retries = folder, cluster, retries
        self.threads, self.gpus = threads, gpus
        given = {"name": "robustlens", "timeout_min": 24 * 60, "cpus_per_task": threads}
        given |= {"gpus_per_node": gpus} if gpus else {}
        given |= {"mem_gb": memory / (1 << 30)} if memory else {}
        given |= {"slurm_array_parallelism": workers} if workers else {}
        self.parameters = given | {_full(key): value for key, value in (parameters or {}).items()}

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """Carry out the jobs; yields the outcome of each run as it comes, and passes events to `listen`.

        On any exception here, a signal for instance, the runs are cancelled, which lets them save their work.

        Raises:
            ConfigError: submitit is not installed, or has no such parameter.
            ResourceError: there is no Slurm here.
        """
        submitit = cluster_package("submitit")
        executor = self._executor(submitit)
        tasks = {name: self._task(name, some) for name, some in by_run(jobs).items()}
        events = {name: _Tail(Path(task.events)) for name, task in tasks.items()}
        losses = dict.fromkeys(tasks, 0)
        busy: dict[str, Any] = {}
        try:
            with stopping.deferred():  # a job that nobody knows of could not be cancelled
                busy |= zip(tasks, executor.submit_array(list(tasks.values())) if tasks else (), strict=True)
            while busy:
                stopping.check()
                for name in [name for name, job in busy.items() if job.done()]:
                    outcome, loss = _outcome(submitit, name, busy.pop(name))
                    events[name].passed_to(partial(listen, name))
                    if loss and losses[name] < self.retries:
                        losses[name] += 1
                        listen(name, Event("lost its worker", losses[name], self.retries, loss))
                        busy[name] = executor.submit(tasks[name])
                        continue
                    listen(name, outcome.event)
                    yield outcome
                for name in busy:
                    events[name].passed_to(partial(listen, name))
                time.sleep(0.2 if busy else 0.0)
        finally:
            _cancel(submitit, list(busy.values()))

    def _executor(self, submitit: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(folder=self.folder / "%j", cluster=self.cluster)
        except RuntimeError as error:
            raise ResourceError(f"executor: found no Slurm here ({error}); give --executor local") from error
        known = {key: value for key, value in self.parameters.items() if self._applies(key)}
        try:
            executor.update_parameters(**known)
        except (NameError, TypeError, ValueError) as error:
            raise ConfigError(f"--slurm: {str(error).splitlines()[0]}") from error
        return executor

    def _applies(self, key: str) -> bool:
        return self.cluster == "slurm" or not key.startswith("slurm_")

    def _task(self, name: str, jobs: Sequence[Job]) -> "SlurmTask":
        threads = max(job.resources.threads for job in jobs) or self.threads
        path = self.folder.absolute() / f"{name}.events"
        path.write_bytes(b"")
        return SlurmTask(name, pickle.dumps(jobs), Place.here(), threads, bool(self.gpus), str(path))


def _full(key: str) -> str:
    return key if key in _COMMON or key.startswith("slurm_") else f"slurm_{key}"


def _outcome(submitit: Any, name: str, job: Any) -> tuple[Outcome, str]:
    """How a job of Slurm ended, and why it was lost; "" where it was not."""
    errors = submitit.core.utils
    try:
        return job.result(), ""
    except errors.FailedJobError as error:
        sys.stderr.write(f"{error}\n")
        return Outcome(name, f"{name}: the worker ended with an unexpected error (see above)", 1), ""
    except errors.UncompletedJobError:
        why = f"Slurm's state {job.state}; logs in {job.paths.folder}"
        return Outcome(name, f"{name}: lost its worker ({why}); look at that machine", 5), why


def _cancel(submitit: Any, jobs: Sequence[Any]) -> None:
    """Cancel jobs, and wait for what they save: the same command would find their runs locked."""
    for job in jobs:
        job.cancel(check=False)
    end = time.monotonic() + 0.8 * stopping.PATIENCE
    for job in jobs:
        with contextlib.suppress(submitit.core.utils.UncompletedJobError):
            while not job.done(force_check=True) and time.monotonic() < end:
                time.sleep(0.2)


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
        """Carry out the jobs; where Slurm takes the machine back, save and queue again."""
        problem = self.place.problem()
        if problem:
            return Outcome(self.run, f"{self.run}: {problem}", 5)
        self.place.enter()
        os.environ |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if not self.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_memory()
        taken_back: list[int] = []
        queue_again = signal.getsignal(signal.SIGUSR2)

        def stop(number: int, frame: FrameType | None) -> None:
            taken_back.append(number)
            stopping.terminate()

        with stopping.handled():
            signal.signal(signal.SIGUSR2, stop)
            try:
                outcome = carry_out(self.run, partial(pickle.loads, self.pickled), Sender(self._tell, _EVERY))
            finally:
                signal.signal(signal.SIGUSR2, queue_again)
        if taken_back and outcome.exit_code == StoppedError.exit_code and callable(queue_again):
            queue_again(taken_back[0], None)  # submitit's, which ends this process
        return outcome

    def checkpoint(self) -> Any:
        """What submitit queues again: the same, since all progress is in the run's folder."""
        return importlib.import_module("submitit.helpers").DelayedSubmission(self)

    def _tell(self, event: Event) -> None:
        with Path(self.events).open("ab") as file:
            file.write(_EVENT.dump_json(event) + b"\n")


class _Tail:
    """The lines that were added to a file since they were last read."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0

    def passed_to(self, listen: Callable[[Event], None]) -> None:
        """Pass on the events of whole lines."""
        with self.path.open("rb") as file:
            file.seek(self.read)
            lines, line_end, _ = file.read().rpartition(b"\n")
        self.read += len(lines) + len(line_end)
        for line in lines.splitlines():
            listen(_EVENT.validate_json(line))
