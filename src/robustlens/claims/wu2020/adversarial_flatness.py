"""Claims of Walter et al. 2025 (arXiv 2510.14231): flatness at clean and at adversarial images.

Each network is held against itself; standard and adversarial training apart.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from robustlens.claims import remedies
from robustlens.claims.designs import compared
from robustlens.claims.estimates import Estimator, estimate, lacking, listed
from robustlens.claims.evidence import LEAST_EXAMPLES, RunData, StudyData
from robustlens.claims.hypothesis import Design, Hypothesis
from robustlens.claims.missing import Missing
from robustlens.claims.pairs import MatchedPair, share
from robustlens.claims.verdict import Consistency, Findings
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, ratio

PAPER = "Walter et al. 2025"
FLOOR = 1e-12
"""Sharpness below it counts as this: its logarithm says no more than that nothing is left."""


def at_broken(kind: str, place: int, run: RunData) -> Quantity:
    """Mean of sharpness (log10) or confidence over the images that the largest radius breaks.

    Args:
        kind: "sharpness" or "confidence".
        place: 0 at the image, -1 at its adversarial image.
        run: of which.
    """
    examples, values, wrong = _measured(run, kind)
    return _mean_over(run, examples, values[place], wrong[-1] & ~wrong[0], "broken")


def clean_sharpness(broken: bool, run: RunData) -> Quantity:
    """Mean log10 sharpness at right images, of those that break or of those that stand.

    At the radius that splits them most evenly.
    """
    examples, values, wrong = _measured(run, "sharpness")
    right = ~wrong[0]
    shares = [float((fooled & right).sum() / max(right.sum(), 1)) for fooled in wrong[1:]]
    fooled = wrong[1 + int(np.argmin([abs(each - 0.5) for each in shares]))]
    chosen = right & (fooled if broken else ~fooled)
    return _mean_over(run, examples, values[0], chosen, "broken" if broken else "standing")


def _measured(run: RunData, kind: str) -> tuple[Examples, Array, np.ndarray]:
    """Values (k, n) at every radius, the clean images first, and which predictions are wrong there."""
    examples, (values, wrong) = run.measured("sharpness", "test_index", f"test_{kind}", "test_wrong")
    if values.ndim != 2 or values.shape != wrong.shape or len(values) < 2:
        raise Unusable(f"{run.name}: sharpness was measured at no radius above 0")
    return examples, np.log10(np.maximum(values, FLOOR)) if kind == "sharpness" else values, wrong > 0.5


def _mean_over(run: RunData, examples: Examples, values: Array, chosen: np.ndarray, name: str) -> Quantity:
    if chosen.sum() < LEAST_EXAMPLES:
        few = f"{int(chosen.sum())} {name} images; at least {LEAST_EXAMPLES} are needed"
        raise Missing(f"{run.name} has {few}")
    conditions = run.measurement("sharpness").conditions
    return replace(
        ratio(examples, values * chosen, chosen.astype(np.float64)),
        conditions=f"radii {conditions.get('radii')}, {conditions.get('steps')} steps",
    )


def within_networks(before: Estimator, ends: tuple[str, str]) -> Design:
    """Design that holds a quantity of each network against another of the same network, `before`."""

    def findings(hypothesis: Hypothesis, study: StudyData) -> Findings:
        after, missing = estimate(hypothesis.estimator, study.runs)
        others, unmeasured = estimate(before, [one.run for one in after])
        missing += unmeasured
        of_run = {one.run: one for one in others}
        pairs = [MatchedPair(of_run[one.run], one) for one in after if one.run in of_run]
        if not pairs:
            raise lacking(listed(missing), missing, remedies.measured(study.record, "sharpness"))

        def consistency() -> Consistency:
            changes = np.array([float(pair.change(lambda one: one.value)) for pair in pairs])
            return share(changes, hypothesis.direction, "network", least=3)

        return compared(hypothesis, study, pairs, after, missing, ends=ends, consistency=consistency)

    return Design(findings, trainings, reads=(before,))


def trainings(study: StudyData) -> list[StudyData]:
    """Networks of standard and of adversarial training apart."""
    adversarial = study.adversarial()
    standard = [run for run in study.runs if run not in adversarial]
    if not adversarial or not standard:
        return [study]
    return [
        replace(study, runs=standard, setting="in standard training"),
        replace(study, runs=adversarial, setting="in adversarial training"),
    ]


HYPOTHESES = (
    Hypothesis(
        id="flat-images-stand",
        paper=PAPER,
        statement="Flatness protects locally: images at which the loss is flat stand longer.",
        quantity="mean log10 of the relative sharpness at right test images, of those that break minus of "
        "those that stand, at the radius that splits them most evenly",
        noun="sharpness at clean images",
        unit="decades",
        estimator=partial(clean_sharpness, True),
        direction=1,
        design=within_networks(partial(clean_sharpness, False), ("where they stand", "where they break")),
    ),
    Hypothesis(
        id="adversarial-images-flatter",
        paper=PAPER,
        statement="Adversarial images lie where the loss is flat.",
        quantity="mean log10 of the relative sharpness over test images that the largest radius breaks, at "
        "the adversarial image minus at the image itself",
        noun="sharpness at broken images",
        unit="decades",
        estimator=partial(at_broken, "sharpness", -1),
        direction=-1,
        design=within_networks(partial(at_broken, "sharpness", 0), ("unattacked", "attacked")),
    ),
    Hypothesis(
        id="adversarial-images-confidently-wrong",
        paper=PAPER,
        statement="At adversarial images networks are surer of the wrong answer than before of the right.",
        quantity="mean of the largest class probability over test images that the largest radius breaks, at "
        "the adversarial image minus at the image itself",
        noun="confidence at broken images",
        estimator=partial(at_broken, "confidence", -1),
        direction=1,
        design=within_networks(partial(at_broken, "confidence", 0), ("unattacked", "attacked")),
    ),
)
"""In the order of the report. On a network whose sharp images are its unsure ones, the last two are one."""
