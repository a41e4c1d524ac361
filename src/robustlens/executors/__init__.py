"""Processes that carry out the runs of a study, on this machine or on several."""

from robustlens.executors.jobs import Executor, Job, Outcome, Resources, Shared, SharesCores
from robustlens.executors.local import InProcess, LocalProcesses

__all__ = ["Executor", "InProcess", "Job", "LocalProcesses", "Outcome", "Resources", "Shared", "SharesCores"]
