"""Processes on this machine, one for each run of a study, and the CUDA devices that they share.

Every run gets a process of its own, so that one that fails, or is killed for its memory, takes nothing with
it. On a CPU, several processes with one thread each finish more runs than one process with all threads.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from robustlens import stopping
from robustlens.errors import StoppedError
from robustlens.executors import starting
from robustlens.executors.jobs import Job, Outcome, Sender, by_run, carry_out
from robustlens.executors.threads import threads_of
from robustlens.machine import keep_memory
from robustlens.progress import Event


@dataclass
class _Worker:
    run: str
    process: BaseProcess
    pipe: Connection
    threads: int
    device: str | None  # the CUDA device that it sees; "" for none, None for all
    outcome: Outcome | None = None  # its last message


class LocalProcesses:
    """Runs jobs in at most `workers` processes at once, sharing the cores among them.

    Args:
        workers: runs at a time; None for as many as there are places on the devices, or else as cores allow.
        devices: CUDA devices as `CUDA_VISIBLE_DEVICES` calls them (`machine.devices`), each of which is the
            only one that its runs see. Empty: the runs see none, and work on the CPU. None: they see all.
        runs_per_device: how many runs share a device.
        threads: of each run; None shares the cores (`share_cores`).
    """

    def __init__(
        self,
        workers: int | None = None,
        devices: Sequence[str] | None = None,
        runs_per_device: int = 1,
        threads: int | None = None,
    ) -> None:
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shared = list(devices or ()) * runs_per_device
        most = len(shared) or max(1, self.cores // (threads or 1))
        self.workers = min(workers or most, most) if shared else workers or most
        self.threads = threads
        self.devices: list[str | None] = [*shared] or [None if devices is None else ""] * self.workers

    def share_cores(self, lengths: Sequence[float]) -> Sequence[int]:
        """As `SharesCores`; on devices, and where a number was given, every run has the same."""
        if self.threads is None and not any(self.devices):
            return threads_of(lengths, self.cores, self.workers)
        return [self.threads or self._equal_share(len(lengths))] * len(lengths)

    def _equal_share(self, runs: int) -> int:
        return max(1, self.cores // max(1, min(self.workers, runs)))

    def run(
        self, jobs: Sequence[Job], listen: Callable[[str, Event], None]
    ) -> Generator[Outcome, None, None]:
        """Carry out the jobs, those of a run in one process; yields each outcome as it comes.

        On any exception here, a signal or Ctrl-C for instance, the workers are asked to stop, and ended
        where they have not saved their work after `stopping.PATIENCE` seconds.
        """
        waiting, busy, free = list(by_run(jobs).values()), list[_Worker](), list(self.devices)
        equal = self.threads or self._equal_share(len(waiting))
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    threads = max(job.resources.threads for job in waiting[0]) or equal
                    if not self._has_cores(threads, busy):
                        break
                    with stopping.deferred():  # a worker that nobody knows of could not be ended
                        busy.append(_start(waiting.pop(0), threads, _take_place(free, busy)))
                wait([worker.pipe for worker in busy], timeout=1.0)
                for worker in list(busy):
                    ended = _received(worker, listen)
                    if ended:
                        busy.remove(worker)
                        free.append(worker.device)
                        outcome = _outcome(worker)
                        listen(outcome.name, outcome.event)
                        yield outcome
        finally:
            _end(busy)

    def _has_cores(self, threads: int, busy: Sequence[_Worker]) -> bool:
        """Whether the cores that are left are enough; always on devices, and where a number was given."""
        taken = sum(worker.threads for worker in busy)
        shares = self.threads is None and not any(self.devices)
        return not (shares and busy) or taken + threads <= max(self.cores, self.workers)


def _take_place(free: list[str | None], busy: Sequence[_Worker]) -> str | None:
    """A free place on the device that the fewest runs use."""
    used = Counter(worker.device for worker in busy)
    device = min(free, key=lambda device: used[device])
    free.remove(device)
    return device


def _start(jobs: Sequence[Job], threads: int, device: str | None) -> _Worker:
    """A worker for the jobs of a run."""
    run = jobs[0].owner
    modules = [name for job in jobs for name in (job.work.__module__, *job.imports)]
    context = starting.context(modules, device)
    here, there = context.Pipe(duplex=False)
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    settings |= {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    pickled = pickle.dumps(jobs)
    arguments = (run, pickled, starting.script_for(pickled), there)
    process = starting.start(context, run, settings, _work, arguments)
    there.close()
    return _Worker(run, process, here, threads, device)


def _end(workers: Sequence[_Worker]) -> None:
    """Ask workers to stop, wait for what they save, and kill those that do not end."""
    end = time.monotonic() + stopping.PATIENCE
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(timeout=max(0.1, end - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(run: str, pickled: bytes, script: Mapping[str, str], pipe: Connection) -> None:
    """The life of a worker process: the jobs of a run, with their events and their outcome sent home.

    Jobs come as bytes, since they import torch, and a worker without its parent should end before that.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()

    def load() -> Sequence[Job]:
        starting.unblock()  # a signal that waited for it is the outcome of the run
        starting.import_script(script)
        jobs: Sequence[Job] = pickle.loads(pickled)
        return jobs

    # A stop while the outcome is on its way home comes from a parent that no longer waits for it.
    with stopping.handled(last=True, worker=True), contextlib.suppress(BrokenPipeError, StoppedError):
        try:
            pipe.send(carry_out(run, load, Sender(pipe.send)))
        finally:
            pipe.close()


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that ended. Runs in a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(StoppedError.exit_code)


def _received(worker: _Worker, listen: Callable[[str, Event], None]) -> bool:
    """Take in what the worker sent; True once it has ended and all of that is read."""
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if isinstance(message, Event):
                listen(worker.run, message)
            else:
                worker.outcome = message
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return True
    return False


def _outcome(worker: _Worker) -> Outcome:
    name, code = worker.run, worker.process.exitcode or 0
    if worker.outcome is not None:
        return worker.outcome
    if code < 0:
        why = "out of memory?" if code == -getattr(signal, "SIGKILL", 9) else "see above"
        return Outcome(name, f"{name}: the process was ended by signal {-code} ({why})", 5)
    return Outcome(name, f"{name}: the process ended with an unexpected error (see above)", 1)


class InProcess:
    """Runs jobs one after another in this process: for debugging, and where processes cannot be made."""

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """As `LocalProcesses.run`, but that a stop, or an unexpected error, ends all of it."""
        for name, some in by_run(jobs).items():
            outcome = carry_out(name, partial(list, some), partial(listen, name))
            if outcome.exit_code == StoppedError.exit_code:
                raise StoppedError(outcome.error)
            yield outcome
