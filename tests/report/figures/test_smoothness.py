"""Figures of change under a fixed perturbation, against the arrays that they are drawn from."""

from pathlib import Path

import numpy as np
import pytest

from helpers.made_networks import LAYERS
from helpers.report_figures import figure, series
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study


def test_changes_are_distributions_and_their_means_go_over_strength(study: ReportData) -> None:
    network = study.networks[2]
    (change,) = network.arrays("smoothness", "margin_change")
    drawn = figure(study, "smoothness")
    line = series(drawn, "Distribution over test images", network.label)
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(change <= x))
    mean = series(drawn, "Mean change", network.label)
    assert mean.y == pytest.approx((change.mean(),), rel=1e-5)


def test_features_are_drawn_through_the_network_and_image_by_image(tmp_path: Path) -> None:
    data = read_study(write_study(tmp_path, members=QUICKSTART[:2], seeds=2, n=80))
    network, drawn = data.networks[1], figure(data, "feature-change")
    assert [view.name for view in drawn.views] == ["Every layer", "Every layer, amplification", *LAYERS]
    changes = network.arrays("smoothness", "noise/conv2")
    depth = series(drawn, "Under random noise", network.label)
    assert depth.x == tuple(LAYERS)
    means = [change.mean() for change in changes]
    assert depth.y[depth.x.index("conv2")] == pytest.approx(np.mean(means), rel=1e-5)
    line = series(drawn, "Under random noise", network.label, "conv2")
    pooled = np.concatenate(changes)
    assert line.x[-1] == pytest.approx(pooled.max())
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(pooled <= x))
    gain = series(drawn, "Under the attack", network.label, "Every layer, amplification")
    assert gain.y[0] == pytest.approx(series(drawn, "Under the attack", network.label).y[0] / 0.15)
