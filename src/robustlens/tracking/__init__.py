"""Trackers: training as TensorBoard, MLflow, Weights & Biases and trackio show it, epoch by epoch.

`Tracking` says which and where, `tracked` opens them for a run, `catch_up` for one that is finished. To add
one, write a class against `Tracker` and add a line to `TRACKERS`.
"""

from robustlens.tracking.base import TrackedRun, Tracker
from robustlens.tracking.registry import TRACKERS
from robustlens.tracking.session import Tracking, catch_up, tracked

__all__ = ["TRACKERS", "TrackedRun", "Tracker", "Tracking", "catch_up", "tracked"]
