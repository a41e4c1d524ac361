"""trackio, the local tracker of Hugging Face."""

import os
from collections.abc import Mapping

from robustlens.tracking.base import TrackedRun


class Trackio:
    """A run in the folder that TRACKIO_DIR names, or else in `<folder>`: `trackio show`."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.absolute()))  # read when it is imported
        import trackio

        self.id = run.id or run.name
        self._run = trackio.init(project=run.project, name=self.id, config=dict(run.settings), resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(metrics), step=step)

    def finish(self, failed: bool) -> None:
        """Close the run."""
        self._run.finish()
