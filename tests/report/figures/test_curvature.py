"""The density of eigenvalues, against the quadrature that it is drawn from."""

from pathlib import Path

import numpy as np
import pytest

from helpers.measured_more import extend_explanation, made
from helpers.report_figures import figure
from helpers.study_files import write_study
from robustlens.report.reading import read_study


def test_the_density_of_eigenvalues_has_the_weights_of_the_quadrature(tmp_path: Path) -> None:
    folder = write_study(tmp_path, n=60)
    quadrature = {
        "test_relative_nodes": np.array([[0.0, 10.0]]),
        "test_relative_weights": np.array([[0.9, 0.1]]),
    }
    for run in read_study(folder).runs:
        extend_explanation(run.source, {"curvature": made({}, quadrature)})
    drawn = figure(read_study(folder), "curvature")
    assert [view.name for view in drawn.views] == ["Relative, at matched temperature"]
    line = drawn.views[0].panels[0].series[0]
    x, y = np.array(line.x, dtype=float), np.array(line.y)
    width = 10 / 60
    assert y.max() == pytest.approx(0.9 / (width * np.sqrt(2 * np.pi)), rel=0.02)
    assert np.trapezoid(y[x < 5], x[x < 5]) == pytest.approx(0.9, abs=0.01)
    assert np.trapezoid(y[x > 5], x[x > 5]) == pytest.approx(0.1, abs=0.01)
