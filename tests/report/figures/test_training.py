"""Figures of training: logged epochs, the epoch that was kept, best beside last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.measured_more import write_beside
from helpers.report_figures import figure, series
from helpers.study_files import QUICKSTART, write_study
from robustlens.config import LAST
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.results import EpochRecord, MonitorRecord
from robustlens.stats.intervals import Interval


def validation_of(epoch: EpochRecord) -> MonitorRecord:
    assert epoch.validation is not None
    return epoch.validation


def test_a_line_is_the_mean_over_seeds_and_its_band_their_range(tmp_path: Path) -> None:
    data = read_study(write_study(tmp_path, seeds=3, members=QUICKSTART[:2], n=60))
    band = series(figure(data, "training"), "Validation images", "AT 0.05")
    logged = [[validation_of(epoch).robust for epoch in run.metrics] for run in data.networks[1].runs]
    assert band.y == pytest.approx(np.mean(logged, axis=0))
    assert band.low == pytest.approx(np.min(logged, axis=0))


def test_the_dot_of_a_training_curve_is_the_last_best_epoch(study: ReportData) -> None:
    panel = figure(study, "training").views[0].panels[0]
    dots = {line.label: line for line in panel.series if line.mark == "points"}
    for network in study.networks[1:]:
        best = [epoch for epoch in network.runs[0].metrics if epoch.best][-1]
        assert dots[network.label].x == (best.epoch,)
        assert dots[network.label].y == (validation_of(best).robust,)


def test_best_and_last_stand_side_by_side_where_both_were_evaluated(tmp_path: Path) -> None:
    folder = write_study(tmp_path, n=60)
    data = read_study(folder)
    (logged,) = figure(data, "checkpoints").views
    network = next(network for network in data.networks if network.eps > 0)
    for run in network.runs:
        assert run.evaluation is not None
        gaps = {**run.evaluation.gaps, "robust": Interval(0.3, 0.2, 0.4)}
        write_beside(run.source, "evaluation", replace(run.evaluation, gaps=gaps), LAST)
    drawn = figure(read_study(folder), "checkpoints")
    assert drawn.views[1] == logged
    assert {line.label for panel in drawn.views[0].panels for line in panel.series} == {network.label}
    gap = series(drawn, "Robust gap", network.label)
    best = network.runs[0].gap("robust")
    assert best is not None
    assert gap.x == ("best", "last")
    assert gap.y == pytest.approx((best.value, 0.3))


def test_best_and_last_are_reported_as_logged_where_the_last_was_not_evaluated(study: ReportData) -> None:
    (logged,) = figure(study, "checkpoints").views
    clean, robust, _ = logged.panels
    assert "Standard" in {line.label for line in clean.series}
    assert "Standard" not in {line.label for line in robust.series}
    network = next(network for network in study.networks if network.eps > 0)
    (metrics,) = [run.metrics for run in network.runs]
    best = [epoch for epoch in metrics if epoch.best][-1]
    line = next(line for line in robust.series if line.label == network.label)
    assert line.y == pytest.approx((validation_of(best).robust, validation_of(metrics[-1]).robust))


def test_training_at_eps_0_has_no_robust_curve(study: ReportData) -> None:
    robust, clean, _ = figure(study, "training").views
    assert "Standard" not in {line.label for line in robust.panels[0].series}
    assert "Standard" in {line.label for line in clean.panels[0].series}


def test_what_was_not_logged_is_not_drawn(study: ReportData) -> None:
    """The made epochs have no loss on fixed images and no ramp risk."""
    names = [view.name for view in figure(study, "training").views]
    assert names == ["Robust accuracy", "Clean accuracy", "Objective"]


def test_accuracy_at_each_networks_own_eps_says_so_in_the_figure(study: ReportData) -> None:
    robust, clean = figure(study, "training").views[:2]
    assert all("at own eps" in panel.y.title for panel in robust.panels)
    assert not any("at own eps" in panel.y.title for panel in clean.panels)
    logged = {panel.title: panel.y.title for panel in figure(study, "checkpoints").views[-1].panels}
    assert [title for title, axis in logged.items() if "at own eps" in axis] == [
        "Robust accuracy",
        "Robust gap",
    ]
