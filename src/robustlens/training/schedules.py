"""Learning rates over a run."""

import math

from robustlens.config import OptimizerSpec


def learning_rate(spec: OptimizerSpec, done: float) -> float:
    """Learning rate when a share `done`, in [0, 1), of all steps is done.

    piecewise: divided by 10 at each milestone. cosine: half a cosine down to zero. one-cycle: a line up to
    `lr` over the `warmup` share, then a line down to zero (Smith 2018, in the linear form of fast AT).
    """
    if spec.schedule == "piecewise":
        return spec.lr * 0.1 ** sum(done >= milestone for milestone in spec.milestones)
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * done))
    if spec.schedule == "one-cycle":
        rising = done < spec.warmup
        return spec.lr * (done / spec.warmup if rising else (1 - done) / (1 - spec.warmup))
    return spec.lr
