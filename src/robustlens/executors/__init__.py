"""Where the runs of a study are carried out."""

from robustlens.executors.local import Job, LocalProcesses, Outcome

__all__ = ["Job", "LocalProcesses", "Outcome"]
