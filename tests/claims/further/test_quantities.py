"""Quantities of work that followed, on values worked by hand, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from helpers.claim_data import N, Net, write
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.further import quantities
from robustlens.claims.missing import Missing
from robustlens.claims.robustness import median_distance
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap, Unusable
from robustlens.stats.ranks import spearman, weighted_spearman


def run_with(folder: Path, arrays: dict[str, np.ndarray], **more: tuple[str, ...]) -> RunData:
    write(folder, [Net(arrays=arrays, **more)])  # type: ignore[arg-type]
    return StudyData.of(StudyFolder(folder), Bootstrap(10)).runs[0]


def test_the_weighted_correlation_is_that_of_the_resample() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40).astype(float)
    counts = rng.integers(0, 3, (5, 40))
    found = weighted_spearman(counts / counts.sum(1, keepdims=True), x, y)
    for row, value in zip(counts, found, strict=True):
        assert value == pytest.approx(spearman(np.repeat(x, row), np.repeat(y, row)))
    assert np.isnan(weighted_spearman(np.ones((1, 40)), np.zeros(40), y)).all()


def test_calibration_by_hand(tmp_path: Path) -> None:
    # Two levels of confidence: sure by 0.9 and right in 70 %, by 0.6 and right in 80 %. Bins hold 26 or 27 images.
    confidence = np.repeat([0.9, 0.6], N // 2)
    right = np.concatenate([np.arange(200) % 10 < 7, np.arange(200) % 10 < 8])
    run = run_with(tmp_path, {"margins/test_confidence": confidence, "margins/test_correct": right})
    order = np.argsort(confidence, kind="stable")
    bins = np.split(order, [place * N // 15 for place in range(1, 15)])
    expected = sum(abs(right[own].mean() - confidence[own].mean()) * len(own) / N for own in bins)
    quantity = quantities.calibration_error(run)
    assert quantity.value() == pytest.approx(expected)
    assert quantity.floor is not None
    assert 0 < quantity.floor() < 0.1  # a calibrated network of this size


def test_the_difference_between_classes_by_hand(tmp_path: Path) -> None:
    right = np.zeros(N, bool)
    for label, share in enumerate((1.0, 0.5, 0.5, 0.0)):
        right[label::4] = np.arange(100) < 100 * share
    run = run_with(tmp_path, {"test/clean": right})
    quantity = quantities.class_difference(run)
    assert quantity.value() == pytest.approx(np.sqrt(0.125))
    assert quantities.largest_class_difference(run).value() == 1.0
    assert quantity.floor is not None
    assert 0.03 < quantity.floor() < 0.1  # a class of 100 at 50 %: 0.05
    one = run_with(tmp_path / "one", {"test/labels": np.zeros(N)})
    with pytest.raises(Unusable, match="images of one class"):
        quantities.class_difference(one)


def test_the_median_distance_is_cut_at_the_largest_radius(tmp_path: Path) -> None:
    distance = np.where(np.arange(N) < 150, 0.03, np.inf)
    assert median_distance(run_with(tmp_path / "far", {"test/distance": distance})).value() == 0.1
    distance[150:220] = 0.04
    assert median_distance(run_with(tmp_path / "near", {"test/distance": distance})).value() == 0.04
    with pytest.raises(Missing, match="curve_eps") as caught:
        median_distance(run_with(tmp_path / "none", {}, drop=("test/curve_eps",)))
    assert caught.value.remedy == "evaluation: {curve: [0.25, 0.5, 0.75, 1, 1.5, 2]}"


def test_margins_and_distances_are_joined_by_image(tmp_path: Path) -> None:
    margin = np.linspace(0.1, 2, N)
    arrays = {
        "margins/test_logit": margin,
        "margins/test_correct": np.ones(N, bool),
        "test/distance": 0.05 * margin[::-1],
        "test/index": np.arange(N)[::-1].copy(),  # the same images in the other order
    }
    assert quantities.margin_consistency(run_with(tmp_path, arrays)).value() == pytest.approx(1.0)
    arrays["test/index"] = np.arange(N) + N - 10
    with pytest.raises(Unusable, match="has 10 images that were both explained and evaluated"):
        quantities.margin_consistency(run_with(tmp_path / "few", arrays))
