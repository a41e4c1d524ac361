"""Jobs of a study: the work of one run, how it ended, and who carries it out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from robustlens.progress import Event


@dataclass(frozen=True)
class Job:
    """`work(listener, *arguments)` in a process of its own; everything must pickle between processes.

    Attributes:
        planned: jobs that there were at first. The cores are shared among so many also when few are left:
            another number of threads may round otherwise.
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    planned: int = 0


@dataclass(frozen=True)
class Outcome:
    """End of a job: `error` is None, or one line."""

    name: str
    error: str | None = None
    exit_code: int = 0


@runtime_checkable
class Executor(Protocol):
    """Carries out jobs wherever it can."""

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """Carry out the jobs; yields each outcome as it comes, and passes (run, event) to `listen`."""
