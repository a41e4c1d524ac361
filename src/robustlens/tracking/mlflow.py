"""MLflow, through its client alone, so that runs side by side do not share an active run."""

import os
import time
from collections.abc import Mapping

from robustlens.tracking.base import TrackedRun

_MOST = 100  # parameters in one message
_LONGEST = 500  # characters of a parameter


class MLflow:
    """A run of the experiment named as the project.

    In the store that MLFLOW_TRACKING_URI names, or else in files: `mlflow ui --backend-store-uri <folder>`.
    """

    def __init__(self, run: TrackedRun) -> None:
        import mlflow
        from mlflow.entities import Param

        store = os.environ.get("MLFLOW_TRACKING_URI")
        if store is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # it would rather have a database
            store = run.folder.absolute().as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=store)
        if run.id is not None:
            self.id = run.id
            self._client.update_run(self.id, status="RUNNING")
            return
        self.id = self._client.create_run(self._experiment(run.project), run_name=run.name).info.run_id
        settings = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
        for first in range(0, len(settings), _MOST):
            self._client.log_batch(self.id, params=settings[first : first + _MOST])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One message with all metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        batch = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=batch)

    def finish(self, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")

    def _experiment(self, name: str) -> str:
        """The experiment's number; another process may make it at the same time."""
        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)
