"""Evaluation: clean accuracy, attacks one after another on the survivors, intervals, flags, gaps.

`evaluate` works on images, `run` on a run folder or on any model and a folder. `attack_loop` runs the
attacks, `verifier` decides which points count, `state` is kept on disk, image by image.
"""

from robustlens.evaluation.evaluate import evaluate
from robustlens.evaluation.evaluation import Evaluation, gaps, rate
from robustlens.evaluation.leaderboard import leaderboard_entry
from robustlens.evaluation.run import evaluate_model, evaluate_run, evaluate_splits

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_model",
    "evaluate_run",
    "evaluate_splits",
    "gaps",
    "leaderboard_entry",
    "rate",
]
