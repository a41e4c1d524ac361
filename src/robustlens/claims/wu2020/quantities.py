"""Quantities of Wu, Xia and Wang (NeurIPS 2020, arXiv 2004.05884), as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are in
`hypotheses`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import SensitivityCheck
from robustlens.claims.missing import Missing
from robustlens.claims.robustness import suite_of
from robustlens.results import Measurement
from robustlens.stats.bootstrap import Array, Examples, Quantity, Unusable, difference, mean

ALPHA = 0.5
"""Place on the landscape at which flatness is read, if every run was measured there."""
ALPHAS = (0.25, 0.5, 1.0)
"""Places that second looks read."""


def robust_gap(run: RunData) -> Quantity:
    """Training minus test robust accuracy, under the same attacks."""
    train, test = (run.evaluated(split, "robust") for split in ("train", "test"))
    return difference(train, test, conditions=suite_of(run))


def robust_mask(run: RunData) -> tuple[Examples, Array]:
    """Whether each test image stays right under every attack."""
    return run.evaluated("test", "robust")


def accuracy_after(column: str, run: RunData) -> Quantity:
    """Share of test images right after an attack or suite of the evaluation, and all attacks before it."""
    attack = run.evaluation.columns.get(column)
    if attack is None:
        raise Missing(f"{run.name} was not evaluated under {column}")
    return mean(*run.evaluated("test", attack), conditions=suite_of(run))


def rise(run: RunData, *, split: str = "test", alpha: float | None = None) -> Quantity:
    """Mean rise of the adversarial loss from alpha 0 to +-alpha, over directions and images, in nats.

    At the study's alpha where none is given.
    """
    return _rise(run, "loss", split, alpha)


def matched_rise(run: RunData) -> Quantity:
    """As `rise`, of the cross entropy at the temperature that fits each network best."""
    return _rise(run, "matched")


def error_rise(run: RunData) -> Quantity:
    """As `rise`, of the adversarial error."""
    return _rise(run, "error")


def average_case(run: RunData, *, split: str = "test") -> Quantity:
    """Mean rise of the adversarial loss over random relative weight perturbations, in nats."""
    return _flatness(run, split, "average", "xi_average", "draws")


def worst_case(run: RunData, *, split: str = "test") -> Quantity:
    """Rise of the adversarial loss at the worst small relative weight perturbation found, in nats."""
    return _flatness(run, split, "worst", "xi_worst", "ascents")


def top_eigenvalue(run: RunData) -> Quantity:
    """Largest eigenvalue of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(run, "relative_top_eigenvalue", "relative_top_images", "the eigenvector is")


def trace(run: RunData) -> Quantity:
    """Trace of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(run, "relative_trace", "relative_trace_images", "the random probes are")


def further_rises(study: StudyData) -> tuple[SensitivityCheck, ...]:
    """The rise on training images, and at other alphas, where every landscape of the study has them."""
    alphas, chosen = study.once(_common_alphas), study.once(_common_alpha)
    checks = [
        SensitivityCheck(f"rise at |alpha| {alpha:g}", partial(rise, alpha=alpha), 1)
        for alpha in ALPHAS
        if alpha in alphas and alpha != chosen
    ]
    if study.once(_has_training_landscapes):
        checks.append(SensitivityCheck("rise on training images", partial(rise, split="train"), 1))
    return tuple(checks)


def further_flatness(case: Callable[..., Quantity], study: StudyData) -> tuple[SensitivityCheck, ...]:
    """Average-case or worst-case flatness on training images, where the study measured it."""
    there = study.once(_has_training_flatness)
    noun = "the same on training images"
    return (SensitivityCheck(noun, partial(case, split="train"), 1),) if there else ()


def _flatness(run: RunData, split: str, case: str, *settings: str) -> Quantity:
    keys = (f"{split}_{case}_loss", f"{split}_reference_loss")
    examples, (there, here) = run.measured("flatness", f"{split}_index", *keys)
    conditions = _conditions(run.measurement("flatness"), *settings, "eps", "steps")
    return mean(examples, there.reshape(-1, examples.n).mean(0) - here, conditions=conditions)


def _curvature(run: RunData, name: str, images: str, kept: str) -> Quantity:
    """A number of the Hessian; resampled over images where the contribution of each was saved."""
    curvature = run.measurement("curvature")
    number = curvature.number(name)
    if curvature.conditions.get("split") != "test":
        raise Unusable(f"{run.name}: the curvature was not measured on test images")
    if number is None or not math.isfinite(number):
        reason = curvature.at("matched_missing") or f"its curvature has no finite {name}"
        raise Unusable(f"{run.name}: {reason}")
    conditions = _conditions(curvature, "examples", "eps", "steps")
    try:
        examples, (values,) = run.measured("curvature", "test_index", f"test_{images}")
    except Missing:
        value = np.array([number])
        return Quantity(lambda: value, conditions=conditions)
    per_image = values.reshape(-1, examples.n).mean(0)
    return mean(examples, per_image, conditions=conditions, caveat=f"{kept} not resampled")


def _conditions(measurement: Measurement, *settings: str) -> str:
    """Some conditions of a measurement in words, for comparing like with like."""
    return ", ".join(f"{setting} {measurement.conditions.get(setting)}" for setting in settings)


def _rise(run: RunData, name: str, split: str = "test", at: float | None = None) -> Quantity:
    key = f"{split}_{name}"
    examples, (values,) = run.measured("landscape", f"{split}_index", key)
    alpha = run.array("explanation", "landscape", "alpha")
    if values.ndim != 3 or values.shape[0] != len(alpha):
        raise Unusable(
            f"{run.name}: landscape/{key} has shape {values.shape}, expected ({len(alpha)}, draws, images)"
        )
    chosen = run.study.once(_common_alpha) if at is None else at
    if chosen is None:
        raise Unusable("the landscapes of this study have no alpha up to 1 in common")
    here = np.isclose(alpha, 0.0)
    if not here.any():
        raise Unusable(f"{run.name}: the landscape was not measured at alpha 0")
    there = np.isclose(np.abs(alpha), chosen)
    if not there.any():
        raise Missing(f"{run.name}: the landscape was not measured at |alpha| {chosen:g}")
    per_image = values[there].mean((0, 1)) - values[here].mean((0, 1))
    conditions = run.measurement("landscape").conditions
    draws = values.shape[1]
    lines = "one random direction is" if draws == 1 else f"{draws} random directions are"
    return mean(
        examples,
        per_image,
        conditions=f"|alpha| {chosen:g}, eps {conditions.get('eps')}, {conditions.get('steps')} steps",
        caveat=f"{lines} not resampled",
    )


def _common_alpha(runs: Sequence[RunData]) -> float | None:
    """|alpha| = 0.5, or else the largest up to 1 at which every landscape of a study was measured."""
    common = _common_alphas(runs)
    return ALPHA if ALPHA in common else max(common, default=None)


def _common_alphas(runs: Sequence[RunData]) -> set[float]:
    """Every |alpha| above 0 and up to 1 at which all landscapes of a study were measured."""
    grids = []
    for run in runs:
        try:
            alpha = run.array("explanation", "landscape", "alpha")
        except Missing:
            continue
        grids.append({round(abs(float(value)), 9) for value in alpha})
    return {value for value in set.intersection(*grids) if 0 < value <= 1} if grids else set()


def _has_training_landscapes(runs: Sequence[RunData]) -> bool:
    return any(_has(run, "landscape", "train_loss") for run in runs)


def _has_training_flatness(runs: Sequence[RunData]) -> bool:
    return any(_has(run, "flatness", "train_reference_loss") for run in runs)


def _has(run: RunData, measure: str, key: str) -> bool:
    try:
        return bool(run.array("explanation", measure, key).size)
    except Missing:
        return False
