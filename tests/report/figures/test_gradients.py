"""Figures of input gradients and of flatness at adversarial images, against what they are drawn from."""

from pathlib import Path

import numpy as np
import pytest

from helpers.measured_more import measure_more
from helpers.report_figures import figure, series
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder: Path = tmp_path_factory.mktemp("gradients")
    return read_study(measure_more(write_study(folder, members=QUICKSTART[:2], n=40)))


def test_every_image_counts_in_each_distribution(measured: ReportData) -> None:
    drawn, network = figure(measured, "input-gradients"), measured.networks[1]
    for title in ("Sparsity", "Nearness to the object", "On the object"):
        line = series(drawn, title, network.label)
        for x, y in zip(line.x, line.y, strict=True):
            assert y == pytest.approx(np.mean(np.linspace(0, 2, 30) <= float(x)))


def test_sharpness_is_over_that_of_the_same_images(measured: ReportData) -> None:
    drawn, network = figure(measured, "adversarial-flatness"), measured.networks[1]
    ratio = series(drawn, "Sharpness at the adversarial image", network.label)
    assert (ratio.x, ratio.y) == ((0.05, 0.1), (3 / 4, 2 / 3))
    assert series(drawn, "Confidence there", network.label).y == (0.6, 0.8)


def test_without_the_measures_the_figures_say_which(study: ReportData) -> None:
    for name, measure in (("input-gradients", "gradients"), ("adversarial-flatness", "sharpness")):
        drawn = figure(study, name)
        assert drawn.views == ()
        assert f"`{measure}`" in drawn.missing
