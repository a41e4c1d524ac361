"""Quantities of Wu, Xia and Wang (NeurIPS 2020, arXiv 2004.05884), as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are in
`hypotheses`.
"""

import json
import math
from collections.abc import Sequence

import numpy as np

from robustlens.claims.evidence import Missing, RunData
from robustlens.results import Measurement
from robustlens.results.values import plain
from robustlens.stats.bootstrap import Quantity, Unusable, difference, mean

ALPHA = 0.5
"""Place on the landscape at which flatness is read, if every run was measured there."""


def robust_gap(run: RunData) -> Quantity:
    """Training minus test robust accuracy, under the same attacks."""
    train, test = (run.evaluated(split, "robust") for split in ("train", "test"))
    result = run.evaluation
    conditions = json.dumps(plain([result.threat, result.attacks]), sort_keys=True)
    return difference(train, test, conditions=conditions)


def rise(run: RunData) -> Quantity:
    """Mean rise of the adversarial test loss from alpha 0 to +-alpha, over directions and images, in nats."""
    return _rise(run, "loss")


def matched_rise(run: RunData) -> Quantity:
    """As `rise`, of the cross entropy at the temperature that fits each network best."""
    return _rise(run, "matched")


def error_rise(run: RunData) -> Quantity:
    """As `rise`, of the adversarial error."""
    return _rise(run, "error")


def average_case(run: RunData) -> Quantity:
    """Mean rise of the adversarial test loss over random relative weight perturbations, in nats."""
    return _flatness(run, "average", "xi_average", "draws")


def worst_case(run: RunData) -> Quantity:
    """Rise of the adversarial test loss at the worst small relative weight perturbation found, in nats."""
    return _flatness(run, "worst", "xi_worst", "ascents")


def top_eigenvalue(run: RunData) -> Quantity:
    """Largest eigenvalue of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(run, "relative_top_eigenvalue", "relative_top_images", "the eigenvector is")


def trace(run: RunData) -> Quantity:
    """Trace of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(run, "relative_trace", "relative_trace_images", "the random probes are")


def _flatness(run: RunData, case: str, *settings: str) -> Quantity:
    keys = (f"test_{case}_loss", "test_reference_loss")
    examples, (there, here) = run.measured("flatness", "test_index", *keys)
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


def _rise(run: RunData, name: str) -> Quantity:
    key = f"test_{name}"
    examples, (values,) = run.measured("landscape", "test_index", key)
    alpha = run.array("explanation", "landscape", "alpha")
    if values.ndim != 3 or values.shape[0] != len(alpha):
        raise Unusable(
            f"{run.name}: landscape/{key} has shape {values.shape}, expected ({len(alpha)}, draws, images)"
        )
    chosen = run.study.once(_common_alpha)
    if chosen is None:
        raise Unusable("the landscapes of this study have no alpha up to 1 in common")
    here = np.isclose(alpha, 0.0)
    if not here.any():
        raise Unusable(f"{run.name}: the landscape was not measured at alpha 0")
    per_image = values[np.isclose(np.abs(alpha), chosen)].mean((0, 1)) - values[here].mean((0, 1))
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
    grids = []
    for run in runs:
        try:
            alpha = run.array("explanation", "landscape", "alpha")
        except Missing:
            continue
        grids.append({round(abs(float(value)), 9) for value in alpha})
    common = {value for value in set.intersection(*grids) if 0 < value <= 1} if grids else set()
    return ALPHA if ALPHA in common else max(common, default=None)
