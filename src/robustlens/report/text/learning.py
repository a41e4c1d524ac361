"""What training has taught a network, where that is nothing."""

import math

from robustlens.config import eps_text
from robustlens.report.data import RunReport
from robustlens.stats.chance import exceeds_chance

_SHARE = 0.98
"""Of the loss of equal probabilities: training that ends above it has found nothing to tell classes apart."""


def at_chance(run: RunReport) -> str | None:
    """In words, that training ended no better than guessing; None where it taught something, or goes on.

    Two things have to agree. The loss of the last epoch is that of equal probabilities for all classes. And
    of the training images that the monitor attacked after it (those of standard training are clean) no more
    are right than guessing gets right in one sample of a thousand. Adversarial training without BatchNorm
    may stay there, or fall back. The second alone is a network that is accurate and not robust. Of an earlier
    checkpoint neither says anything.
    """
    last = run.metrics[-1] if run.metrics else None
    classes = run.record.model.get("num_classes")
    measured = last.train if last is not None else None
    if last is None or measured is None or not run.record.is_trained or not isinstance(classes, int):
        return None
    if classes < 2 or not (math.isfinite(measured.robust) and last.loss >= _SHARE * math.log(classes)):
        return None
    right = round(measured.robust * measured.n)
    tells = exceeds_chance(measured.n, measured.n, 1 / classes)  # with all images right
    if not tells or exceeds_chance(right, measured.n, 1 / classes):
        return None
    attacked = f" under attack within eps {eps_text(run.eps)}" if run.eps else ""
    return (
        f"training ended at chance: its loss is {last.loss:.2f} nats, and equal probabilities for {classes} "
        f"classes give {math.log(classes):.2f}; {right} of {measured.n} training images are right{attacked}, "
        f"and guessing gets {100 / classes:.3g} %. What is measured at its last checkpoint says nothing "
        "about robustness"
    )
