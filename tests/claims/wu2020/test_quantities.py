"""Quantities of Wu et al.: where on the landscape flatness is measured, and under which conditions."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import N, Net, write
from helpers.claim_stories import check_one, story
from robustlens.claims.evidence import StudyData
from robustlens.claims.wu2020 import quantities
from robustlens.results import Measurement, StudyFolder
from robustlens.stats.bootstrap import Unusable


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


def test_a_rise_is_the_mean_of_both_sides_above_the_middle(tmp_path):
    # Two directions, 400 images; the heights at alpha -1, -0.5, 0, 0.5, 1 of each.
    heights = np.array([[5.0, 9.0], [1.3, 1.5], [1.0, 1.2], [1.7, 2.3], [11.0, 13.0]])
    landscape = np.repeat(heights[:, :, None], N, axis=2)
    arrays = {
        f"landscape/test_{name}": place * landscape for place, name in enumerate(("loss", "matched"), 1)
    }
    arrays["landscape/test_error"] = landscape > 1.4
    run = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, arrays=arrays)]))).runs[0]
    # (1.3 + 1.5 + 1.7 + 2.3) / 4 - (1 + 1.2) / 2
    assert quantities.rise(run).value() == pytest.approx(0.6)
    assert quantities.matched_rise(run).value() == pytest.approx(1.2)
    # Three of four heights beside the middle are above 1.4, none in it.
    assert quantities.error_rise(run).value() == pytest.approx(0.75)
    assert quantities.rise(run).caveat == "2 random directions are not resampled"


def test_flatness_around_the_weights_is_the_mean_over_draws_less_what_it_is_at_them(tmp_path):
    here = np.linspace(1.0, 2.0, N)
    arrays = {
        "flatness/test_reference_loss": here,
        "flatness/test_average_loss": np.stack([here + 0.25, here + 0.75]),
        "flatness/test_worst_loss": here + 1.5,
    }
    run = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, arrays=arrays)]))).runs[0]
    assert quantities.average_case(run).value() == pytest.approx(0.5)
    assert quantities.worst_case(run).value() == pytest.approx(1.5)


def test_the_robust_gap_is_training_minus_test(tmp_path):
    arrays = {"test/robust": np.arange(N) < 100, "train/robust": np.arange(N) < 260}
    run = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, arrays=arrays)]))).runs[0]
    assert quantities.robust_gap(run).value() == pytest.approx(0.4)


def with_curvature(folder, value, arrays):
    """A run whose curvature has these numbers and arrays."""
    run = StudyFolder(write(folder, [Net(0.1)])).runs()[0]
    explanation = run.explanation()
    measures = dict(explanation.measures)
    conditions = {"split": "test", "eps": 0.1, "steps": 10, "examples": 60}
    measures["curvature"] = Measurement(value, "", "", "", conditions, arrays=arrays)
    run.write("explanation", replace(explanation, measures=measures))
    return StudyData.of(StudyFolder(folder)).runs[0]


def test_the_interval_of_the_curvature_resamples_images(tmp_path):
    top, probes = np.linspace(1, 3, 60), np.stack([np.linspace(0, 4, 60), np.linspace(2, 6, 60)])
    arrays = {
        "test_index": np.arange(60),
        "test_relative_top_images": top,
        "test_relative_trace_images": probes,
    }
    value = {"relative_top_eigenvalue": 2.0, "relative_trace": 3.0}
    run = with_curvature(tmp_path, value, arrays)
    for quantity, expected, per_image in (
        (quantities.top_eigenvalue(run), 2.0, top),
        (quantities.trace(run), 3.0, probes.mean(0)),
    ):
        assert quantity.value() == pytest.approx(expected)
        weights = np.zeros((1, 60))
        weights[0, 7] = 1.0
        assert quantity.function(weights) == pytest.approx(per_image[7])
        assert "not resampled" in quantity.caveat
    without = with_curvature(tmp_path / "b", value, {})
    assert quantities.trace(without).value() == 3.0
    assert quantities.trace(without).examples == ()


def test_a_curvature_at_no_temperature_is_unusable_with_its_reason(tmp_path):
    value = {"relative_trace": float("nan"), "matched_missing": "every image is right"}
    with pytest.raises(Unusable, match="every image is right"):
        quantities.trace(with_curvature(tmp_path, value, {}))
