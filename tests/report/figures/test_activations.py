"""Figures of the activations, against the arrays that they are drawn from."""

import numpy as np
import pytest

from helpers.report_figures import figure, series
from robustlens.report.data import ReportData


def test_norms_are_drawn_as_they_are_and_over_their_mean(study: ReportData) -> None:
    network = study.networks[2]
    (norms,) = network.arrays("activations", "fc1")
    drawn = figure(study, "activations")
    raw = series(drawn, "Norm of what the layer reads", network.label, "fc1")
    scaled = series(drawn, "Divided by its mean", network.label, "fc1")
    for x, y in zip(raw.x, raw.y, strict=True):
        assert y == pytest.approx(np.mean(norms <= x))
    assert np.array(scaled.x) * norms.mean() == pytest.approx(np.array(raw.x), rel=1e-5)
