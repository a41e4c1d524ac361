"""What Wu, Xia and Wang (NeurIPS 2020, arXiv 2004.05884) speak of, as functions of a run.

Each function takes a `RunData` (one run) and returns a `Quantity`. The claims made of them are registered in
`robustlens.claims`.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from robustlens.claims.evidence import RunData
from robustlens.claims.verdict import Missing, Unusable
from robustlens.stats import bootstrap as st
from robustlens.stats.bootstrap import Quantity

ALPHA = 0.5
"""Where on the landscape flatness is read, if every run was measured there."""


def robust_gap(source: RunData) -> Quantity:
    """Training minus test robust accuracy, under the same attacks."""
    train, (right_train,) = source.examples("evaluation", "train/index", "train/robust")
    test, (right_test,) = source.examples("evaluation", "test/index", "test/robust")
    found = source.json("evaluation")
    how = json.dumps([found.get("threat"), found.get("attacks")], sort_keys=True)
    return st.difference((train, right_train), (test, right_test), conditions=how)


def rise(source: RunData) -> Quantity:
    """Mean rise of the adversarial test loss from alpha 0 to +-alpha, over directions and images, in nats."""
    return _rise(source, "loss")


def matched_rise(source: RunData) -> Quantity:
    """As `rise`, of the cross entropy at the temperature that fits each network best."""
    return _rise(source, "matched")


def error_rise(source: RunData) -> Quantity:
    """As `rise`, of the adversarial error."""
    return _rise(source, "error")


def average_case(source: RunData) -> Quantity:
    """Mean rise of the adversarial test loss over random relative weight perturbations, in nats."""
    return _flatness(source, "average", "xi_average", "draws")


def worst_case(source: RunData) -> Quantity:
    """Rise of the adversarial test loss at the worst small relative weight perturbation found, in nats."""
    return _flatness(source, "worst", "xi_worst", "ascents")


def top_eigenvalue(source: RunData) -> Quantity:
    """Largest eigenvalue of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(source, "relative_top_eigenvalue")


def trace(source: RunData) -> Quantity:
    """Trace of the relative Hessian of the adversarial test loss, at matched temperature."""
    return _curvature(source, "relative_trace")


def _flatness(source: RunData, case: str, *settings: str) -> Quantity:
    keys = (f"flatness/test_{case}_loss", "flatness/test_reference_loss")
    examples, (there, here) = source.examples("explanation", "flatness/test_index", *keys)
    how = source.measure("flatness")
    conditions = _conditions(how, *settings, "eps", "steps")
    return st.mean(examples, there.reshape(-1, examples.n).mean(0) - here, conditions=conditions)


def _curvature(source: RunData, name: str) -> Quantity:
    how = source.measure("curvature")
    if how.get("split") != "test" or not isinstance(how.get(name), int | float):
        raise Unusable(f"{source.name}: the curvature was not measured on test images")
    value = np.array([how[name]], dtype=np.float64)
    return Quantity(lambda: value, conditions=_conditions(how, "examples", "eps", "steps"))


def _conditions(how: Mapping[str, Any], *settings: str) -> str:
    """How a quantity was measured, for comparing like with like."""
    return ", ".join(f"{setting} {how.get(setting)}" for setting in settings)


def _rise(source: RunData, name: str) -> Quantity:
    key = f"landscape/test_{name}"
    examples, (values,) = source.examples("explanation", "landscape/test_index", key)
    alpha = source.array("explanation", "landscape/alpha")
    if values.ndim != 3 or values.shape[0] != len(alpha):
        raise Unusable(
            f"{source.name}: {key} has shape {values.shape}, expected ({len(alpha)}, draws, images)"
        )
    chosen = _common_alpha(source)
    here = np.isclose(alpha, 0.0)
    if not here.any():
        raise Unusable(f"{source.name}: the landscape was not measured at alpha 0")
    per_image = values[np.isclose(np.abs(alpha), chosen)].mean((0, 1)) - values[here].mean((0, 1))
    how = source.measure("landscape")
    conditions = f"|alpha| {chosen:g}, eps {how.get('eps')}, {how.get('steps')} steps"
    draws = values.shape[1]
    lines = "one random direction is" if draws == 1 else f"{draws} random directions are"
    caveat = f"{lines} not resampled"
    return st.mean(examples, per_image, conditions=conditions, caveat=caveat)


def _common_alpha(source: RunData) -> float:
    """|alpha| = 0.5, or else the largest up to 1 at which every landscape of the study was measured."""
    grids = []
    for peer in source.peers:
        try:
            alpha = RunData(peer, source.bootstrap).array("explanation", "landscape/alpha")
        except Missing:
            continue
        grids.append({round(abs(float(value)), 9) for value in alpha})
    common = {value for value in set.intersection(*grids) if 0 < value <= 1} if grids else set()
    if not common:
        raise Unusable("the landscapes of this study have no alpha up to 1 in common")
    return ALPHA if ALPHA in common else max(common)
