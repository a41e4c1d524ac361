"""TensorBoard, through torch's own writer."""

from collections.abc import Mapping

from robustlens.tracking.base import TrackedRun


class TensorBoard:
    """Event files in `<folder>/<run>`: `tensorboard --logdir <folder>`."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Epochs that a killed process logged and that come again are dropped by the reader.
        purge = run.next_step if run.id is not None else None
        self.id = run.id or run.name
        self._writer = SummaryWriter(str(run.folder / run.name), purge_step=purge)
        if run.id is None:
            lines = (f"    {name}: {value}" for name, value in run.settings.items())
            self._writer.add_text("recipe", "\n".join(lines), 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()
