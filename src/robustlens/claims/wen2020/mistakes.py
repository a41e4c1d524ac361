"""Transitions of images, from their outcome under the standard network to that under a robust one."""

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.evidence import RunData
from robustlens.claims.missing import Missing
from robustlens.results import standard_networks
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, divide, mean
from robustlens.stats.misclassification import TAU, outcomes

RIGHT, INDECISIVE, DECISIVE = range(3)
"""Places in `misclassification.OUTCOMES`."""


def became_indecisive(run: RunData) -> Quantity:
    """Share of test images that went from right to indecisively wrong, minus those that went the other way.

    From the standard network of the same seed and setting, at the same checkpoint, to this one.
    """
    examples, before, after = _outcomes(run)
    lost = (before == RIGHT) & (after == INDECISIVE)
    won = (before == INDECISIVE) & (after == RIGHT)
    return mean(examples, lost.astype(np.float64) - won)


def lost_indecisively(run: RunData) -> Quantity:
    """Share of the standard network's right answers now wrong that are indecisive, over its own share.

    That is, minus the share of the standard network's mistakes that are indecisive; 0 where no right answer
    was lost, or there was no mistake before.
    """
    examples, before, after = _outcomes(run)
    lost = ((before == RIGHT) & (after != RIGHT)).astype(np.float64)
    own = (before != RIGHT).astype(np.float64)
    if not lost.any() or not own.any():
        return mean(examples, np.zeros(examples.n))
    indecisive, usual = lost * (after == INDECISIVE), own * (before == INDECISIVE)
    return Quantity(
        lambda weights: divide(weights @ indecisive, weights @ lost) - divide(weights @ usual, weights @ own),
        (examples,),
    )


def _outcomes(run: RunData) -> tuple[Examples, Array, Array]:
    """Test images, and their outcomes under the standard network and under this one."""
    examples, after = _own(run)
    of_standard, before = _own(_standard(run))
    if of_standard != examples:
        raise Unusable(f"{run.name} and the standard network were measured on different images")
    return examples, before, after


def _own(run: RunData) -> tuple[Examples, Array]:
    keys = "test_correct", "test_probability"
    examples, (right, margin) = run.measured("margins", "test_index", *keys)
    return examples, outcomes(right, margin, TAU).astype(np.float64)


def _standard(run: RunData) -> RunData:
    """The standard network of the same seed and setting, at the same checkpoint."""
    reference = standard_networks(one.entry for one in run.study.runs).get(
        (run.entry.setting, run.entry.seed)
    )
    for other in run.study.runs if reference is not None else ():
        if other.entry is reference:
            return other if run.other is None else other.at(run.other)
    reason = f"no standard network was trained beside {run.name}"
    raise Missing(reason, remedies.strengths(run.study.record))
