"""Processes that carry out the runs of a study."""

from robustlens.executors.jobs import Executor, Job, Outcome
from robustlens.executors.local import InProcess, LocalProcesses

__all__ = ["Executor", "InProcess", "Job", "LocalProcesses", "Outcome"]
