"""The protocol of a tracker."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class TrackedRun:
    """A run, as a tracker is told of it when it is opened.

    Attributes:
        name: of the run. project: of the runs beside it.
        id: the tracker's own name of the run where it has heard of it before; None at first.
        next_step: the first epoch that it has not heard of, from 1.
        folder: where the tracker may write.
        settings: the recipe, flat: "optimizer.lr" and so on.
    """

    name: str
    project: str
    id: str | None
    next_step: int
    folder: Path
    settings: Mapping[str, Any]


@runtime_checkable
class Tracker(Protocol):
    """A tracker that is open for one run; its class is called with the `TrackedRun`.

    Attributes:
        id: its own name of the run, under which a later call goes on.
    """

    id: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the numbers of epoch `step`, by name: `train/robust` ..."""

    def finish(self, failed: bool) -> None:
        """Close; `failed` where training ended with an error or a stop."""
