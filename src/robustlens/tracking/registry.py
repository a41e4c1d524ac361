"""Trackers by name."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustlens.errors import ConfigError
from robustlens.extras import install_extra
from robustlens.registry import Registry
from robustlens.tracking.base import TrackedRun, Tracker
from robustlens.tracking.mlflow import MLflow
from robustlens.tracking.tensorboard import TensorBoard
from robustlens.tracking.trackio import Trackio
from robustlens.tracking.wandb import WandB


class TrackerEntry(NamedTuple):
    """A tracker, the package that it needs, and whether that is of the extra `track`."""

    open: Callable[[TrackedRun], Tracker]
    package: str
    is_extra: bool = True


TRACKERS: Registry[TrackerEntry] = Registry(
    "track",
    {
        "tensorboard": TrackerEntry(TensorBoard, "tensorboard"),
        "mlflow": TrackerEntry(MLflow, "mlflow"),
        "wandb": TrackerEntry(WandB, "wandb"),
        "trackio": TrackerEntry(Trackio, "trackio", is_extra=False),
    },
)
"""Trackers by name."""


def check(names: Sequence[str]) -> None:
    """Refuse, before any training, an unknown tracker, one twice, or one whose package is not installed.

    Raises:
        ConfigError: which.
    """
    for number, name in enumerate(names):
        entry = TRACKERS.find(name)
        if name in names[:number]:
            raise ConfigError(f"track: found {name!r} twice, expected it once")
        if importlib.util.find_spec(entry.package) is None:
            raise ConfigError(
                f"track: found {name!r} without the package {entry.package!r}; install it with "
                f"{install_extra('track') if entry.is_extra else f'pip install {entry.package}'}"
            )
