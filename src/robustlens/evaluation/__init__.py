"""Evaluation: clean accuracy, attacks one after another on the survivors, intervals, flags, gaps.

`images` evaluates images, `run` a run folder or any model into a folder. `attack_loop` runs the
attacks, `verifier` decides which points count, `state` is kept on disk, image by image.
"""

from robustlens.evaluation.evaluation import Evaluation, gaps, rate
from robustlens.evaluation.images import evaluate
from robustlens.evaluation.leaderboard import leaderboard_entry, leaderboard_suite
from robustlens.evaluation.run import evaluate_model, evaluate_run, evaluate_splits

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_model",
    "evaluate_run",
    "evaluate_splits",
    "gaps",
    "leaderboard_entry",
    "leaderboard_suite",
    "rate",
]
