"""The trackers of one run while it is trained: none of them can end training, and none hears an epoch twice.

What a tracker has heard is kept in the run's folder, in a file of its own: the tracker's name of the run, and
the last epoch. So a later call goes on in the same tracker's run, tells it the epochs that it has missed, and
leaves out those that it knows.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustlens.config import Recipe
from robustlens.config.values import flat
from robustlens.errors import LockedError, RobustlensError
from robustlens.progress import Event, Listener
from robustlens.registry import one_line
from robustlens.results import Run
from robustlens.results.files import write_atomic
from robustlens.results.locks import locked
from robustlens.tracking.base import TrackedRun, Tracker
from robustlens.tracking.registry import TRACKERS, check

_log = logging.getLogger("robustlens")


@dataclass(frozen=True)
class Tracking:
    """Trackers to be told of training.

    Attributes:
        names: of `TRACKERS`.
        folder: where they write, each in a folder of its name; None for `tracking` in the run's folder.
        project: of the runs that belong together.

    Raises:
        ConfigError: an unknown tracker, or its package is not installed.
    """

    names: Sequence[str] = ()
    folder: Path | None = None
    project: str = "robustlens"

    def __post_init__(self) -> None:
        check(self.names)


def catch_up(run: Run, recipe: Recipe, tracking: Tracking) -> None:
    """Tell trackers the epochs of a finished run that they have missed; one that knows all is not opened.

    Where another process works in the run's folder, a later call does.
    """
    behind = [name for name in tracking.names if _is_behind(run, name)]
    if behind:
        missed = replace(tracking, names=behind)
        with contextlib.suppress(LockedError), locked(run.folder), tracked(run, recipe, missed):
            pass


@contextlib.contextmanager
def tracked(run: Run, recipe: Recipe, tracking: Tracking) -> Iterator[Listener]:
    """Open the trackers; the listener tells them the metrics of each epoch while the context is open.

    They are told first what they have missed. One that fails is left alone after one line of warning. A run
    that is only read has none.
    """
    names = () if run.read_only else tracking.names
    sessions = [_Session(name, run, recipe, tracking) for name in names]
    failed = True
    try:
        for session in sessions:
            session.catch_up(run)

        def listen(event: Event) -> None:
            for session in sessions:
                session(event)

        yield listen
        failed = False
    finally:
        for session in sessions:
            session.finish(failed)


def _mark(run: Run, tracker: str) -> Path:
    return run.path("tracking", f"{tracker}.txt")


def _heard(mark: Path) -> tuple[str | None, int]:
    """A tracker's name of the run, which may hold spaces, and the last epoch that it heard of."""
    if not mark.exists():
        return None, 0
    known, epoch = mark.read_text(encoding="utf-8").rsplit(maxsplit=1)
    return known, int(epoch)


def _is_behind(run: Run, tracker: str) -> bool:
    try:
        return _heard(_mark(run, tracker))[1] < run.record.epochs_done
    except (OSError, ValueError):  # its session says what is wrong
        return True


class _Session:
    """One tracker of one run."""

    def __init__(self, name: str, run: Run, recipe: Recipe, tracking: Tracking) -> None:
        self.name = name
        self.tracker: Tracker | None = None
        folder = run.path("tracking") if tracking.folder is None else tracking.folder
        self._mark = _mark(run, name)
        self.heard = 0
        with self._guarded("cannot be opened"):
            known, self.heard = _heard(self._mark)
            settings = flat(recipe.model_dump(mode="json"))
            about = TrackedRun(
                run.folder.absolute().name, tracking.project, known, self.heard + 1, folder / name, settings
            )
            self.tracker = TRACKERS[name].open(about)

    def __call__(self, event: Event) -> None:
        """Tell the tracker an epoch's metrics, unless it knows them; what has no metrics is passed over."""
        if event.phase == "train" and event.metrics and event.step is not None:
            self._log(event.step, event.metrics)

    def catch_up(self, run: Run) -> None:
        """Tell the tracker the epochs of the run that it has missed."""
        for epoch in run.metrics() if self.tracker is not None else ():
            self._log(epoch.epoch, epoch.metrics)

    def finish(self, failed: bool) -> None:
        """Close the tracker."""
        if self.tracker is not None:
            with self._guarded("cannot be closed"):
                self.tracker.finish(failed)

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.tracker is None or step <= self.heard:
            return
        with self._guarded("cannot take the metrics of an epoch"):
            self.tracker.log(step, metrics)
            self.heard = step
            write_atomic(self._mark, f"{self.tracker.id} {step}\n".encode())

    @contextlib.contextmanager
    def _guarded(self, problem: str) -> Iterator[None]:
        """Make of a failure one line, and leave the tracker alone from then on."""
        try:
            yield
        except RobustlensError:
            raise  # a stop, or the run's own folder
        except (Exception, SystemExit) as error:  # code of others can raise anything
            self.tracker = None
            _log.warning(
                "tracker %s: %s (%s); training goes on without it", self.name, problem, one_line(error)
            )
