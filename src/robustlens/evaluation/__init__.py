"""Evaluation: clean accuracy, attacks one after another on the survivors, intervals, flags, gaps.

`images` evaluates images, `run` a run folder or any model into a folder. `attack_loop` runs the
attacks, `verifier` decides which points count, `state` is kept on disk, image by image. `shards` says which
images one of several processes attacks.
"""

from robustlens.evaluation.evaluation import Evaluation, gaps, rate
from robustlens.evaluation.images import attack_shard, evaluate
from robustlens.evaluation.leaderboard import leaderboard_entry, leaderboard_suite
from robustlens.evaluation.run import (
    attack_run,
    attack_splits,
    evaluate_model,
    evaluate_run,
    evaluate_splits,
    shards_at_most,
)
from robustlens.evaluation.shards import Shard

__all__ = [
    "Evaluation",
    "Shard",
    "attack_run",
    "attack_shard",
    "attack_splits",
    "evaluate",
    "evaluate_model",
    "evaluate_run",
    "evaluate_splits",
    "gaps",
    "leaderboard_entry",
    "leaderboard_suite",
    "rate",
    "shards_at_most",
]
