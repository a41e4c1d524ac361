"""Robust overfitting of a run: how far robust accuracy falls from its best to the end of training."""

from collections.abc import Iterable, Sequence

import numpy as np

from robustlens.claims.evidence import RunData
from robustlens.claims.missing import Missing, missing_if_damaged
from robustlens.claims.wu2020 import quantities
from robustlens.stats.bootstrap import Quantity, Unusable

LAST_EPOCHS = 10
"""Epochs whose mean is the end of training, as in the paper's logs."""


def fall(run: RunData) -> Quantity:
    """Robust test accuracy at the best checkpoint minus its mean over the end of training.

    The end is the last ten epochs, without those before the best one: these were still on their way up.
    On test images where the study evaluated any run beside its best checkpoint, else on the monitor's
    validation images (`fall_of_monitor`); conditions say which.
    """
    if not run.study.once(_is_evaluated_along):
        return fall_of_monitor(run)
    evaluated = _last_epochs(run)
    ends = _from_the_best_on(run, evaluated)
    best, *last = (quantities.robust_mask(each) for each in (run, *ends))
    if any(examples != best[0] for examples, _ in last):
        raise Unusable(f"{run.name} was evaluated on different images at its checkpoints")
    mean = np.mean([mask for _, mask in last], axis=0)
    values = best[1] - mean
    # How many of them come before the best one is an outcome of training: no condition, but a caveat.
    epochs = f"{len(evaluated)} of the last {LAST_EPOCHS} epochs"
    few = f"the end of {run.name} is {len(ends)} of {len(evaluated)} evaluated epochs, from its best on"
    return Quantity(
        lambda w: w @ values,
        (best[0],),
        conditions=f"test images, {epochs}",
        caveat=few if len(ends) < len(evaluated) else "",
    )


def fall_of_monitor(run: RunData) -> Quantity:
    """The same of validation robust accuracy after every epoch.

    One number of a run, with no images behind it. The highest of noisy numbers is a little too high.
    """
    with missing_if_damaged():
        epochs = run.run.metrics()
    robust = [epoch.validation.robust for epoch in epochs if epoch.validation is not None]
    if not robust:
        run.along_training()  # says what became of a run that has neither
        raise Missing(f"{run.name} has no robust accuracy of validation images in its log")
    best = int(np.argmax(robust))
    value = np.array([robust[best] - float(np.mean(robust[max(best, len(robust) - LAST_EPOCHS) :]))])
    return Quantity(lambda: value, conditions="validation images of the monitor")


def _last_epochs(run: RunData) -> list[RunData]:
    """The run at its evaluated checkpoints of the last ten epochs; `Missing` where there is none."""
    last = _after(run.run.record.epochs_done - LAST_EPOCHS, run.along_training())
    if not last:
        raise Missing(f"{run.name} was evaluated at none of its last {LAST_EPOCHS} epochs")
    return last


def _from_the_best_on(run: RunData, evaluated: Sequence[RunData]) -> list[RunData]:
    """Those of a run's evaluated checkpoints that do not come before its best; `Missing` where all do."""
    ends = _after((run.run.record.best_epoch or 0) - 1, evaluated)
    if not ends:
        raise Missing(f"{run.name} was not evaluated from its best epoch on")
    return ends


def _after(epoch: int, checkpoints: Iterable[RunData]) -> list[RunData]:
    """Those that were kept after an epoch; the last one is after every epoch."""
    return [
        each
        for each in checkpoints
        if each.other is not None and (each.other.epoch is None or each.other.epoch > epoch)
    ]


def _is_evaluated_along(runs: Sequence[RunData]) -> bool:
    for run in runs:
        try:
            if run.along_training():
                return True
        except Missing:
            continue
    return False
