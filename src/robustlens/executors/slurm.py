"""Runs as an array of Slurm jobs, through submitit: one for each run, with all its stages.

Slurm has no way back to the study, so events are lines of a file beside the logs, which all machines see. A
job that nears its time limit, or is preempted, saves its work, is queued again and goes on there, as long as
it gets further each time; one that is lost, or was sent SIGTERM alone, is submitted again.
"""

import contextlib
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustlens import stopping
from robustlens.errors import ConfigError, ResourceError, StoppedError
from robustlens.executors.jobs import Job, Outcome, by_run, cluster_package
from robustlens.executors.places import Place
from robustlens.executors.setbacks import Setbacks
from robustlens.executors.slurm_job import SlurmTask, Tail
from robustlens.progress import Event

_AGAIN = 30.0  # seconds before a run is submitted again whose folder is held, or that Slurm did not take
_NO_LIMIT = 1 << 30  # of how often submitit queues a job again: a run that gets no further does not ask it to
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
        retries: how often a run may be lost, without getting further in between, before it has failed.
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
            ResourceError: there is no Slurm here, or it takes no such job.
        """
        submitit = cluster_package("submitit")
        executor = self._executor(submitit)
        tasks = {name: self._task(name, some) for name, some in by_run(jobs).items()}
        submitted = _Submitted(submitit, executor, tasks, Setbacks(self.retries, listen))
        try:
            yield from submitted.carry_out()
        finally:
            _cancel(submitit, list(submitted.busy.values()))

    def _executor(self, submitit: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(
                folder=self.folder / "%j",
                cluster=self.cluster,
                slurm_max_num_timeout=_NO_LIMIT,
                local_max_num_timeout=_NO_LIMIT,
            )
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

    def _task(self, name: str, jobs: Sequence[Job]) -> SlurmTask:
        threads = max(job.resources.threads for job in jobs) or self.threads
        path = self.folder.absolute() / f"{name}.events"
        path.write_bytes(b"")
        return SlurmTask(name, pickle.dumps(jobs), Place.here(), threads, bool(self.gpus), str(path))


def _full(key: str) -> str:
    return key if key in _COMMON or key.startswith("slurm_") else f"slurm_{key}"


class _Submitted:
    """The jobs of one call: which Slurm has, and which are submitted again."""

    def __init__(
        self, submitit: Any, executor: Any, tasks: Mapping[str, SlurmTask], setbacks: Setbacks
    ) -> None:
        self.submitit, self.executor, self.tasks, self.setbacks = submitit, executor, tasks, setbacks
        self.tails = {name: Tail(Path(task.events)) for name, task in tasks.items()}
        self.busy: dict[str, Any] = {}
        self.due: dict[str, float] = {}  # when a run is submitted again

    def carry_out(self) -> Iterator[Outcome]:
        """The outcome of each run as it comes."""
        self._submit_all()
        while self.busy or self.due:
            stopping.check()
            outcomes = [self._submitted_again(name) for name in self._ready()]
            outcomes += [self._ended(name) for name in [n for n, job in self.busy.items() if job.done()]]
            for outcome in outcomes:
                if outcome is not None:
                    self.setbacks.listen(outcome.name, outcome.event)
                    yield outcome
            for name in self.busy:
                self._pass_events(name)
            time.sleep(0.2 if self.busy or self.due else 0.0)

    def _submit_all(self) -> None:
        """Submit the array."""
        with stopping.deferred():  # a job that nobody knows of could not be cancelled
            try:
                jobs = self.executor.submit_array(list(self.tasks.values())) if self.tasks else ()
            except (RuntimeError, OSError) as error:
                raise ResourceError(
                    f"executor: Slurm took no job ({_in_a_line(error)}); "
                    "change its parameters with --slurm, or give --executor local"
                ) from error
            self.busy |= zip(self.tasks, jobs, strict=True)

    def _ready(self) -> list[str]:
        now = time.monotonic()
        return [name for name, when in self.due.items() if when <= now]

    def _submitted_again(self, name: str) -> Outcome | None:
        """Submit a run again; its outcome where it has failed so."""
        del self.due[name]
        with stopping.deferred():
            try:
                self.busy[name] = self.executor.submit(self.tasks[name])
            except (RuntimeError, OSError) as error:
                return self._lost(name, f"Slurm took no job: {_in_a_line(error)}", wait=_AGAIN)
        return None

    def _ended(self, name: str) -> Outcome | None:
        """The outcome of a run whose job ended; None where it goes on."""
        self._pass_events(name)
        job, errors = self.busy.pop(name), self.submitit.core.utils
        try:
            outcome: Outcome = job.result()
        except errors.FailedJobError as error:
            sys.stderr.write(f"{error}\n")
            return Outcome(name, f"{name}: the worker ended with an unexpected error (see above)", 1)
        except errors.UncompletedJobError:
            return self._lost(name, f"Slurm's state {job.state}; logs in {job.paths.folder}")
        if outcome.exit_code == StoppedError.exit_code:  # somebody stopped the job, not the study
            stopping.check()
            job.cancel(check=False)  # Slurm may queue by itself what it preempts
            return self._lost(name, str(outcome.error))
        if self.setbacks.may_ask_again(outcome):
            self.due[name] = time.monotonic() + _AGAIN
            return None
        return outcome

    def _lost(self, name: str, why: str, wait: float = 0.0) -> Outcome | None:
        outcome = self.setbacks.lost(name, why)
        if outcome is None:
            self.due[name] = time.monotonic() + wait
        return outcome

    def _pass_events(self, name: str) -> None:
        self.tails[name].passed_to(partial(self.setbacks.hear, name))


def _in_a_line(error: Exception) -> str:
    return "; ".join(line for line in str(error).splitlines() if line) or type(error).__name__


def _cancel(submitit: Any, jobs: Sequence[Any]) -> None:
    """Cancel jobs, and wait for what they save: the same command would find their runs locked."""
    for job in jobs:
        job.cancel(check=False)
    end = time.monotonic() + 0.8 * stopping.PATIENCE
    for job in jobs:
        with contextlib.suppress(submitit.core.utils.UncompletedJobError):
            while not job.done(force_check=True) and time.monotonic() < end:
                time.sleep(0.2)
