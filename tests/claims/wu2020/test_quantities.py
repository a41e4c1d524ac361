"""Quantities of Wu et al.: where on the landscape flatness is measured, and under which conditions."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import Net, write
from helpers.claim_stories import check_one, story
from robustlens.claims.evidence import StudyData
from robustlens.claims.wu2020 import quantities
from robustlens.results import StudyFolder


def test_flatness_is_measured_at_the_largest_alpha_that_all_runs_share(tmp_path):
    nets = story("awp-flatter", "holds")
    other = {"landscape/alpha": np.array([-1.0, -0.25, 0.0, 0.25, 1.0])}
    claim = check_one(tmp_path, "awp-flatter", [nets[0], replace(nets[1], arrays=other)])
    # At |alpha| = 1 the rises are twice the knobs 1.0 and 0.4.
    assert claim.effect.value == pytest.approx(-1.2, abs=1e-5)
    none = {"landscape/alpha": np.array([-0.3, -0.2, 0.0, 0.2, 0.3])}
    apart = check_one(tmp_path / "b", "awp-flatter", [nets[0], replace(nets[1], arrays=none)])
    assert "no alpha up to 1 in common" in apart.why


def test_a_landscape_without_its_centre_is_unusable(tmp_path):
    nets = story("awp-flatter", "holds")
    off_centre = {"landscape/alpha": np.array([-1.0, -0.5, 0.1, 0.5, 1.0])}
    claim = check_one(tmp_path, "awp-flatter", [nets[0], replace(nets[1], arrays=off_centre)])
    assert "the landscape was not measured at alpha 0" in claim.why


def test_conditions_are_in_words(tmp_path):
    run = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1)]))).runs[0]
    assert quantities.rise(run).conditions == "|alpha| 0.5, eps 0.1, 10 steps"
    assert quantities.average_case(run).conditions == "xi_average 0.5, draws 2, eps 0.1, steps 10"
    assert quantities.trace(run).conditions == "examples None, eps 0.1, steps 10"
    assert (
        quantities.robust_gap(run).conditions
        == '[{"bounds": [0.0, 1.0], "eps": 0.1, "norm": "Linf"}, ["pgd-20"]]'
    )


def test_curvature_of_training_images_is_unusable(tmp_path):
    nets = [
        replace(net, conditions={"split": "train"}) for net in story("smaller-trace-smaller-gap", "holds")
    ]
    claim = check_one(tmp_path, "smaller-trace-smaller-gap", nets)
    assert "the curvature was not measured on test images" in claim.why
