"""Figures of confidence and of indecisive errors, against the explanation's own numbers."""

from itertools import pairwise

import numpy as np
import pytest

from helpers.report_figures import figure, series
from robustlens.report.data import ReportData


def test_confidence_histograms_count_wrong_images_only_where_they_say_so(study: ReportData) -> None:
    network = study.networks[3]
    (confidence,), (correct,) = (
        network.arrays("margins", f"test_{name}") for name in ("confidence", "correct")
    )
    bars = series(figure(study, "confidence"), "Test images", network.label, view=1)
    lower = np.array(bars.x, dtype=float)
    wanted = [np.mean((confidence[~correct] >= a) & (confidence[~correct] < b)) for a, b in pairwise(lower)]
    assert bars.y[:-1] == pytest.approx(wanted)
    assert bars.y[-1] == 0


def test_indecisive_errors_equal_those_of_the_explanation(study: ReportData) -> None:
    drawn = figure(study, "indecisive")
    for network in study.networks:
        (wanted,) = network.measured("margins", "test", "indecisive_errors")
        (share,) = network.measured("margins", "test", "indecisive_share")
        everything = series(drawn, "Among all images", network.label)
        of_errors = series(drawn, "Among the errors", network.label)
        for tau, value in wanted.items():
            place = int(np.argmin(np.abs(np.array(everything.x, dtype=float) - float(tau))))
            assert everything.x[place] == pytest.approx(float(tau))
            assert everything.y[place] == pytest.approx(value)
            assert of_errors.y[place] == pytest.approx(share[tau])
