"""Concentration of the margins, against the arrays that it is computed from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.report_figures import figure, series
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return read_study(write_study(tmp_path_factory.mktemp("study"), members=QUICKSTART[:3], seeds=2, n=80))


@pytest.mark.parametrize(
    ("panel", "statistic"),
    [
        ("Within 0.2 of the boundary", lambda m: np.mean(np.abs(m) < 0.2)),
        ("Standard deviation", np.std),
        ("Interquartile range", lambda m: np.subtract(*np.quantile(m, [0.75, 0.25]))),
    ],
)
@pytest.mark.parametrize("view", ["Probability margin", "Probability margin at matched temperature"])
def test_concentration_is_a_mean_over_seeds(
    data: ReportData, view: str, panel: str, statistic: Callable[[np.ndarray], float]
) -> None:
    key = "matched_probability" if "matched" in view else "probability"
    for network in data.networks:
        seeds = network.arrays("margins", f"test_{key}")
        expected = np.mean([statistic(margin.astype(float)) for margin in seeds])
        assert series(figure(data, "concentration"), panel, network.label, view).y == pytest.approx(
            (expected,)
        )


def test_training_and_test_margins_are_as_far_apart_as_their_sorted_values(tmp_path: Path) -> None:
    """With as many images on either side, Wasserstein-1 is the mean distance of sorted values."""
    data = read_study(write_study(tmp_path, members=QUICKSTART[:2], n=60))
    network = data.networks[1]
    train, test = (
        np.sort(network.arrays("margins", f"{split}_logit")[0].astype(float)) for split in ("train", "test")
    )
    line = series(figure(data, "concentration"), "Training to test", network.label, "Logit margin")
    assert line.y == pytest.approx((np.abs(train - test).mean(),))
