"""Jobs of a study: the stages of its runs, how they ended, and who carries them out."""

import importlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from robustlens import stopping
from robustlens.errors import ConfigError, RobustlensError, of_system, out_of_memory
from robustlens.extras import install_extra
from robustlens.progress import DONE, ENDED, Event, Listener


@dataclass(frozen=True)
class Resources:
    """What a job needs of the machine that it runs on.

    Attributes:
        threads: of torch; 0 for as many as the executor gives to each run. Another number may round
            otherwise, so a run keeps its own however often it is stopped.
        device: whether the job uses a CUDA device where the executor has some. One that does not lets
            another run have it.
    """

    threads: int = 0
    device: bool = True


@dataclass(frozen=True)
class Job:
    """`work(listener, *arguments)`, one step of a run; everything must pickle between processes.

    Attributes:
        name: of the job, unique among those of a call.
        work, arguments: what is called, after the listener for its events.
        run: name of the run that the job belongs to, which events and outcomes bear; "" where it is one.
        after: names of jobs of the same run that come first, and without which this one is not begun.
        resources: what it needs.
        imports: modules, by name, that the work imports late and that take long: an executor may import them
            once for many runs.
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    run: str = ""
    after: tuple[str, ...] = ()
    resources: Resources = Resources()
    imports: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """Name of the run, or of the job where it is a run of its own."""
        return self.run or self.name


@dataclass(frozen=True)
class Outcome:
    """End of a run: `error` is None, or one line."""

    name: str
    error: str | None = None
    exit_code: int = 0

    @property
    def event(self) -> Event:
        """The event with which the run ends."""
        return Event(ENDED if self.error else DONE, 1, 1, self.error or "")


@runtime_checkable
class Executor(Protocol):
    """Carries out jobs wherever it can."""

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """Carry out the jobs, and pass (run, event) to `listen`.

        Yields the outcome of each run as it comes: of its last job, or of the first that failed, after which
        the others of that run are not begun.
        """


@runtime_checkable
class SharesCores(Protocol):
    """An executor whose runs share the cores of one machine."""

    def share_cores(self, lengths: Sequence[float]) -> Sequence[int]:
        """Threads of each run of a study, longest first, those that are finished as well.

        The same lengths give the same numbers, however much of the study is left.
        """


class Shared:
    """A large argument of many jobs, made where they run, once for those that a process carries out in a row.

    Args:
        make: makes it; must pickle. An executor that sends values replaces it.
    """

    _latest: ClassVar[tuple[str, Any]] = ("", None)  # one alone: values are as large as data sets

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.token = uuid.uuid4().hex

    def value(self) -> Any:
        """The value; raises as `make` does."""
        if Shared._latest[0] != self.token:
            Shared._latest = ("", None)
            Shared._latest = (self.token, self.make())
        return Shared._latest[1]


def by_run(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs of each run, in an order in which each comes after those that it waits for.

    Raises:
        ValueError: a job waits for one that is not there, or for itself.
    """
    runs: dict[str, list[Job]] = {}
    for job in jobs:
        runs.setdefault(job.owner, []).append(job)
    return {name: _in_order(some) for name, some in runs.items()}


def _in_order(jobs: Sequence[Job]) -> list[Job]:
    ordered: list[Job] = []
    left = list(jobs)
    while left:
        done = {job.name for job in ordered}
        ready = [job for job in left if done.issuperset(job.after)]
        if not ready:
            raise ValueError(f"{left[0].name}: waits for {left[0].after}, which do not all come before it")
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered


def carry_out(name: str, load: Callable[[], Sequence[Job]], listen: Listener) -> Outcome:
    """Do the work of jobs of a run until one fails, and say how it ended.

    An unexpected error is raised: it is a bug of ours.

    Args:
        name: of the run.
        load: gives the jobs, in their order. Their modules may import torch, in which a signal may come, too.
        listen: hears their events.
    """
    try:
        for job in load():
            job.work(listen, *job.arguments)
    except RobustlensError as error:
        return Outcome(name, str(error).splitlines()[0], error.exit_code)
    except SystemExit as error:
        return Outcome(name, f"{name}: code outside robustlens called sys.exit({error.code!r})", 3)
    except Exception as error:
        failure = of_system(error)
        if failure is not None:
            return Outcome(name, str(failure), failure.exit_code)
        if not out_of_memory(error):
            raise
        line = f"{name}: out of memory; lower the batch size or the number of workers"
        return Outcome(name, line, 5)
    return Outcome(name)


def cluster_package(name: str) -> Any:
    """A package of the extra `cluster`, imported.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"executor: found no package {name!r}; install it with {install_extra('cluster')}"
        ) from error


class Sender:
    """A listener that sends events on, not more often than is useful, until this process is asked to stop.

    Args:
        send: takes an event to where the jobs come from.
        every: seconds between two events. The last of a phase and those with metrics are always sent.
    """

    def __init__(self, send: Callable[[Event], object], every: float = 0.2) -> None:
        self.send, self.every = send, every
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        """Send the event, or leave it out."""
        now = time.monotonic()
        if stopping.requested():  # nobody reads any more
            return
        if event.metrics or now - self.last >= self.every or event.done == event.total:
            self.last = now
            self.send(event)
