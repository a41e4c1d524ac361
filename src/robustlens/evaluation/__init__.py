"""Evaluation: clean accuracy, attacks one after another on the survivors, intervals, flags, gaps.

`of_images` evaluates a model on images, `of_runs` a run folder or any model into a folder. `survivors` is the
loop, `ledger` what it knows of each image and keeps on disk, `judge` what counts as broken.
"""

from robustlens.evaluation.evaluate import evaluate
from robustlens.evaluation.evaluation import Evaluation, gaps, rate
from robustlens.evaluation.leaderboard import leaderboard_entry
from robustlens.evaluation.run import evaluate_model, evaluate_run, evaluate_splits, is_current, provenance

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_model",
    "evaluate_run",
    "evaluate_splits",
    "gaps",
    "is_current",
    "leaderboard_entry",
    "provenance",
    "rate",
]
