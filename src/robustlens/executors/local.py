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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from robustlens import stopping
from robustlens.errors import RobustlensError, StoppedError, out_of_memory
from robustlens.executors.jobs import Job, Outcome
from robustlens.machine import keep_memory
from robustlens.progress import Event

_EVENT_EVERY = 0.2  # seconds between events of one worker
_DONE = ("", 0)  # last message of a worker whose job came to its end


@dataclass
class _Worker:
    job: Job
    process: SpawnProcess
    pipe: Connection
    device: str | None  # the CUDA device that it sees; "" for none, None for all
    error: tuple[str, int] | None = None  # its last message: _DONE, or a line and an exit code


class LocalProcesses:
    """Runs jobs in at most `workers` processes at once, sharing the cores among them.

    Args:
        workers: runs at a time; None for as many as there are places on the devices, or else cores.
        devices: CUDA devices as `CUDA_VISIBLE_DEVICES` calls them (`machine.devices`), each of which is the
            only one that its runs see. Empty: the runs see none, and work on the CPU. None: they see all.
        runs_per_device: how many runs share a device.
    """

    def __init__(
        self, workers: int | None = None, devices: Sequence[str] | None = None, runs_per_device: int = 1
    ) -> None:
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shared = list(devices or ()) * runs_per_device
        self.workers = min(workers or len(shared), len(shared)) if shared else workers or self.cores
        self.devices: list[str | None] = [*shared] or [None if devices is None else ""] * self.workers

    def run(
        self, jobs: Sequence[Job], listen: Callable[[str, Event], None]
    ) -> Generator[Outcome, None, None]:
        """Carry out the jobs in order; yields each outcome as it comes, and passes their events to `listen`.

        On any exception here, a signal or Ctrl-C for instance, the workers are asked to stop, and ended
        where they have not saved their work after `stopping.PATIENCE` seconds.
        """
        waiting, busy, free = list(jobs), list[_Worker](), list(self.devices)
        most = max((len(waiting), *(job.planned for job in waiting)))
        threads = max(1, self.cores // max(1, min(self.workers, most)))
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    with stopping.deferred():  # a worker that nobody knows of could not be ended
                        busy.append(_start(waiting.pop(0), threads, free.pop(0)))
                wait([worker.pipe for worker in busy], timeout=1.0)
                for worker in list(busy):
                    ended = _received(worker, listen)
                    if ended:
                        busy.remove(worker)
                        free.append(worker.device)
                        outcome = _outcome(worker)
                        phase = "ended" if outcome.error else "done"
                        listen(outcome.name, Event(phase, 1, 1, outcome.error or ""))
                        yield outcome
        finally:
            _end(busy)


def _start(job: Job, threads: int, device: str | None) -> _Worker:
    """A worker for `job`. Threads and devices are set before torch loads, which reads them once."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    settings |= {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    with _environment(settings), _interrupts_blocked():
        arguments = (pickle.dumps(job), job.name, there)
        process = context.Process(target=_work, args=arguments, name=job.name, daemon=True)
        process.start()
    there.close()
    return _Worker(job, process, here, device)


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


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, for a process that is started here as well: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pickled: bytes, name: str, pipe: Connection) -> None:
    """The life of a worker process: the job, with its events and its error sent home.

    The job comes as bytes, since it imports torch, and a worker without its parent should end before that.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    with stopping.handled(last=True, worker=True), contextlib.suppress(BrokenPipeError):
        try:
            job: Job = pickle.loads(pickled)
            job.work(_Sender(pipe), *job.arguments)
            pipe.send(_DONE)
        except RobustlensError as error:
            pipe.send((str(error).splitlines()[0], error.exit_code))
        except SystemExit as error:
            pipe.send((f"{name}: code outside robustlens called sys.exit({error.code!r})", 3))
        except BrokenPipeError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                raise
            pipe.send((f"{name}: out of memory; lower the batch size or the number of workers", 5))
        finally:
            pipe.close()


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that ended. Runs in a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(StoppedError.exit_code)


class _Sender:
    """A listener that sends events through a pipe, not more often than is useful."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if stopping.requested():  # the parent reads no more
            return
        if event.metrics or now - self.last >= _EVENT_EVERY or event.done == event.total:
            self.last = now
            self.pipe.send(event)


def _received(worker: _Worker, listen: Callable[[str, Event], None]) -> bool:
    """Take in what the worker sent; True once it has ended and all of that is read."""
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if isinstance(message, Event):
                listen(worker.job.name, message)
            else:
                worker.error = message
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return True
    return False


def _outcome(worker: _Worker) -> Outcome:
    name, code = worker.job.name, worker.process.exitcode or 0
    if worker.error == _DONE:
        return Outcome(name)
    if worker.error is not None:
        return Outcome(name, *worker.error)
    if code < 0:
        why = "out of memory?" if code == -getattr(signal, "SIGKILL", 9) else "see above"
        return Outcome(name, f"{name}: the process was ended by signal {-code} ({why})", 5)
    return Outcome(name, f"{name}: the process ended with an unexpected error (see above)", 1)


class InProcess:
    """Runs jobs one after another in this process: for debugging, and where processes cannot be made."""

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """As `LocalProcesses.run`."""
        for job in jobs:
            try:
                job.work(partial(listen, job.name), *job.arguments)
            except StoppedError:
                raise
            except RobustlensError as error:
                yield Outcome(job.name, str(error).splitlines()[0], error.exit_code)
            else:
                yield Outcome(job.name)
