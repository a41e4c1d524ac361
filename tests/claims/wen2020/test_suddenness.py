"""Sudden changes and their directions, on values worked by hand."""

import numpy as np
import pytest

from helpers.claim_data import LAYERS, N, Net, sweep, write
from helpers.claim_stories import check_one
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.wen2020 import suddenness
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap, Unusable


def measured(folder, arrays) -> RunData:
    """A run with these arrays, as claims read it."""
    write(folder, [Net(arrays=arrays)])
    return StudyData.of(StudyFolder(folder), Bootstrap(10)).runs[0]


def test_flips_and_quantiles_by_hand(tmp_path):
    arrays = {
        "smoothness/label_flip": np.arange(N) < 100,
        "smoothness/noise_label_flip": np.arange(N) < 4,
        "smoothness/probability_change": np.arange(N)[::-1] / 1000,
    }
    run = measured(tmp_path, arrays)
    assert suddenness.flips(run).value() == pytest.approx(0.25)
    assert suddenness.flips(run, moved="noise").value() == pytest.approx(0.01)
    # 380 of 400 images fall by no more than that of place 380.
    assert suddenness.sudden_change(run).value() == pytest.approx(0.379)


def test_amplification_is_averaged_over_images_before_it_is_divided(tmp_path):
    half = np.arange(N) % 2 == 0
    arrays = {
        "smoothness/attack_input": np.where(half, 0.1, 0.2),
        "smoothness/noise_input": np.where(half, 0.5, 0.0),  # every other image was not moved
        "smoothness/attack/layer0": np.where(half, 0.2, 0.8),  # amplified by 2 and by 4
        "smoothness/noise/layer0": np.full(N, 0.25),  # by 0.5 where it was moved
    }
    quantity = suddenness.attack_over_noise(measured(tmp_path, arrays))
    assert quantity.layers == LAYERS
    assert quantity.value()[0] == pytest.approx(3.0 / 0.25)


def test_images_that_were_not_moved_are_not_amplified(tmp_path):
    with pytest.raises(Unusable, match="the images were not moved"):
        suddenness.attack_over_noise(measured(tmp_path, {"smoothness/noise_input": np.zeros(N)}))


def test_a_tail_that_does_not_fall_with_the_mean_is_noted(tmp_path):
    tail = np.where(np.arange(N) % 10 == 0, 1.9, 0.1)
    strong = Net(0.2, arrays={"smoothness/probability_change": tail})
    claim = check_one(tmp_path, "smoother-under-attack", [*sweep({0.0: {"change": 0.5}}), strong])
    assert claim.verdict == "as claimed"
    assert "95 % quantile of the fall goes the other way" in claim.note
    assert "(the mean falls, and what is sudden does not)" in claim.note
