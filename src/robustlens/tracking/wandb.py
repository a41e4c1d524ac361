"""Weights & Biases, offline unless WANDB_MODE says otherwise."""

import os
import uuid
from collections.abc import Mapping

from robustlens.tracking.base import TrackedRun


class WandB:
    """A run in `<folder>/wandb`; `wandb sync <folder>/wandb/offline-run-*` sends it.

    Nothing leaves the machine unless WANDB_MODE is "online". Offline, each sitting is a folder of its own
    with the same run id, which the server puts together.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        os.environ.setdefault("WANDB_MODE", "offline")
        run.folder.mkdir(parents=True, exist_ok=True)
        self.id = run.id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=self.id,
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(metrics), step=step)

    def finish(self, failed: bool) -> None:
        """Close the run."""
        self._run.finish(exit_code=int(failed))
