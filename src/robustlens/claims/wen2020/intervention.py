"""What holding the singular values changes: `capacity` against none, paired at the same strength and seed.

A correlation cannot tell what moves what; here the singular values of the kernels are held to a range in
training, and all else is alike (our test of the chain that Wen et al. draw).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from robustlens.claims import remedies
from robustlens.claims.designs import Partner, matched_pairs
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck, checkpoints
from robustlens.claims.wen2020 import activations, quantities


def bounded_pairs(study: StudyData) -> list[Partner]:
    """Every run whose singular values are held to a range, and the one of the same recipe without it."""
    free = {run.entry.unbounded: run for run in reversed(study.runs) if not run.entry.capacity}
    bounded = [run for run in study.runs if run.entry.capacity and run.entry.unbounded]
    return [(run, free.get(run.entry.unbounded)) for run in bounded]


def settings(study: StudyData) -> list[StudyData]:
    """The study at each checkpoint; apart for each objective and setting, where its pairs have several."""
    groups: dict[tuple[str, str | None], list[RunData]] = {}
    for run, partner in bounded_pairs(study):
        if partner is not None:
            kind = (partner.entry.objective, partner.entry.setting)
            groups.setdefault(kind, []).extend((partner, run))
    if len(groups) < 2:
        return checkpoints(study)
    return [
        part
        for runs in groups.values()
        for part in checkpoints(
            replace(study, runs=list(dict.fromkeys(runs)), setting=f"in {_methods(runs)}")
        )
    ]


def _methods(runs: Sequence[RunData]) -> str:
    return ", ".join(dict.fromkeys(run.entry.method for run in runs))


PAIRS = matched_pairs(
    bounded_pairs,
    ends=("without bounds", "with bounds"),
    nothing="the study has no run whose singular values are held to a range (capacity)",
    remedy=remedies.capacity_pair,
    parts=settings,
)
_hypothesis = partial(Hypothesis, paper="Wen et al. 2020", design=PAIRS)
_PAIRED = "with the singular values of kernels held to a range (capacity) against without, else trained alike"

HYPOTHESES = (
    _hypothesis(
        id="bounds-lower-singular-spread",
        statement="Holding singular values to a range in training lowers their spread in most layers.",
        quantity="for each layer, the std of the singular values of its kernel, which is what is held, "
        f"{_PAIRED}; on the feature map in the note; values are medians over layers",
        noun="std of singular values of kernels",
        unit="%",
        estimator=partial(quantities.spectrum_spread, operator=quantities.KERNEL),
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "std of singular values on the feature map",
                quantities.spectrum_spread,
                -1,
                "what is held is not what the layer does to its feature map",
            ),
        ),
    ),
    _hypothesis(
        id="bounds-lower-activation-spread",
        statement="Holding singular values to a range lowers the variance of activation norms in most "
        "layers.",
        quantity=f"for each layer, the std over test images of the norm of its post-activation, {_PAIRED}; "
        "values are medians over layers",
        noun="std of activation norms",
        unit="%",
        estimator=activations.spread,
        direction=-1,
        sensitivity=(
            SensitivityCheck(
                "std over mean",
                partial(activations.spread, relative=True),
                -1,
                "it is the scale of the activations that falls",
            ),
        ),
    ),
    _hypothesis(
        id="bounds-concentrate-margins",
        statement="Holding singular values to a range concentrates margins around the decision boundaries.",
        quantity=f"share of test images whose probability margin is within 0.2 of zero, {_PAIRED}",
        noun="share of images near the boundary",
        estimator=quantities.near_boundary,
        direction=1,
        sensitivity=(
            SensitivityCheck(
                "the same at matched temperature",
                partial(quantities.near_boundary, matched=True),
                1,
                "what the claim sees may be low confidence alone",
            ),
        ),
    ),
    _hypothesis(
        id="bounds-shrink-loss-gap",
        statement="Holding singular values to a range makes the loss gap smaller.",
        quantity=f"test minus training cross entropy, unattacked, {_PAIRED}",
        noun="loss gap",
        unit="nats",
        estimator=quantities.loss_gap,
        direction=-1,
        sensitivity=(SensitivityCheck("error gap", quantities.error_gap, -1),),
    ),
)
"""In the order of the chain."""
