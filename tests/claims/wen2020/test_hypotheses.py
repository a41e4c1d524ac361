"""Sensitivity checks of the claims of Wen et al.: at matched temperature, and under noise."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import N, sweep
from helpers.claim_stories import check_one, story
from robustlens.claims import CLAIMS
from robustlens.claims.designs import STRENGTH_SWEEP

MATCHED = {
    # claim: the array that its check at matched temperature reads
    "less-confident": "margins/test_matched_confidence",
    "margins-concentrate": "margins/test_matched_probability",
    "smoother-under-attack": "smoothness/matched_probability_change",
    "errors-indecisive": "margins/test_matched_probability",
    "train-test-margins-closer": "margins/test_matched_probability",
    "ramp-gap-shrinks": "margins/test_matched_probability",
    "loss-gap-shrinks": "margins/test_matched_loss",
}
NOUN = "the same at matched temperature"


@pytest.mark.parametrize("name", MATCHED)
def test_claims_that_depend_on_confidence_have_a_matched_check_that_may_be_missing(tmp_path, name):
    whole = check_one(tmp_path, name, story(name, "holds"))
    assert f"{NOUN}: " in whole.note or f"{NOUN} goes" in whole.note
    older = [replace(net, drop=(MATCHED[name],)) for net in story(name, "holds")]
    claim = check_one(tmp_path / "older", name, older)
    assert f"{NOUN}: not measured" in claim.note
    assert (claim.verdict, claim.effect) == (whole.verdict, whole.effect)


@pytest.mark.parametrize(
    ("cooled", "expected"), [(-0.2, f"{NOUN}: -0.2"), (0.2, f"{NOUN} goes the other way, +0.2")]
)
@pytest.mark.parametrize("name", ["less-confident", "loss-gap-shrinks"])
def test_a_matched_check_names_low_confidence_alone(tmp_path, name, cooled, expected):
    knob, low, high = {
        "less-confident": ("confidence", 0.6, 0.9),
        "loss-gap-shrinks": ("loss_gap", 0.1, 0.4),
    }[name]
    claim = check_one(tmp_path, name, sweep({0.0: {knob: high}, 0.1: {knob: low, "cooled": cooled}}))
    assert claim.verdict == "as claimed"
    assert expected in claim.note
    assert ("low confidence alone" in claim.note) == (cooled > 0)


def test_smoothness_in_the_attacked_direction_only_is_noted(tmp_path):
    weak, strong = sweep({0.0: {"feature": 0.5}, 0.2: {"feature": 0.3}})
    rough = {
        f"smoothness/noise/layer{i}": np.full(N, 0.2, np.float32) + np.float32(0.01 * i) for i in range(8)
    }
    claim = check_one(tmp_path, "feature-change-falls", [weak, replace(strong, arrays=rough)])
    assert claim.verdict == "as claimed"
    assert "the same under random noise in the ball goes the other way" in claim.note
    assert "not smoother in all directions" in claim.note


def test_a_check_goes_where_its_claim_goes_but_for_spreads_that_fall_as_images_gather():
    spreads = {
        "std of the probability margin",
        "std of the logit margin over the product of the layers' largest singular values",
    }
    ladder = [claim for claim in CLAIMS.values() if claim.design is STRENGTH_SWEEP]
    checks = [
        (claim, check)
        for claim in ladder
        if isinstance(claim.sensitivity, tuple)
        for check in claim.sensitivity
    ]
    assert len(checks) >= 15
    for claim, check in checks:
        assert check.direction == claim.direction * (-1 if check.noun in spreads else 1), check.noun
