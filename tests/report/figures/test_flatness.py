"""Flatness against the robust gap, and both along training, against the run files."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.measured_more import extend_explanation, made, write_beside
from helpers.report_figures import figure
from helpers.study_files import write_study
from robustlens.config import LAST, Checkpoint
from robustlens.report.data import ReportData
from robustlens.report.figures.flatness import scatter
from robustlens.report.reading import read_study
from robustlens.stats.intervals import Interval


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_study(tmp_path_factory.mktemp("study"), n=60)
    for place, run in enumerate(read_study(folder).runs):
        extend_explanation(run.source, {"flatness": made({"average": {"loss": 1.0 + place}})})
    return read_study(folder)


def test_flatness_is_drawn_against_the_robust_gap_of_adversarially_trained_networks(data: ReportData) -> None:
    by_name = {view.name: view.panels[0] for view in figure(data, "flatness-gap").views}
    assert set(by_name) == {"Landscape rise", "Matched landscape rise", "Average case"}
    trained = [network for network in data.networks if network.eps > 0]
    for name, path in (
        ("Landscape rise", ("landscape", "rise", "0.5")),
        ("Average case", ("flatness", "average", "loss")),
    ):
        assert [series.label for series in by_name[name].series] == [network.label for network in trained]
        for series, network in zip(by_name[name].series, trained, strict=True):
            assert series.x == tuple(network.measured(*path))
            gap = network.runs[0].gap("robust")
            assert gap is not None
            assert (series.y, series.low, series.high) == ((gap.value,), (gap.low,), (gap.high,))


def test_the_title_has_the_rank_correlation_of_four_networks_or_more(data: ReportData) -> None:
    titles = [view.panels[0].title for view in figure(data, "flatness-gap").views]
    assert all(title.startswith("Chosen checkpoint, rank correlation ") for title in titles)
    few = ReportData("few", data.networks[:4])  # the standard network and three others
    assert {view.panels[0].title for view in figure(few, "flatness-gap").views} == {"Chosen checkpoint"}


def test_checkpoints_of_one_network_are_points_of_one_series() -> None:
    points = [("AT", 1.0, Interval(0.1)), ("AWP", 0.5, Interval(0.05)), ("AT", 2.0, Interval(0.3))]
    first, second = scatter("Gap", "rise", points).series
    assert (first.label, first.x, first.y) == ("AT", (1.0, 2.0), (0.1, 0.3))
    assert (second.label, second.x, second.y) == ("AWP", (0.5,), (0.05,))


def test_epochs_along_training_are_drawn_in_order(tmp_path: Path) -> None:
    folder = write_study(tmp_path, n=60, epochs=30)
    before = read_study(folder)
    trained = [network for network in before.networks if network.eps > 0]
    assert figure(before, "along-training").views == ()
    checkpoints = ((2, Checkpoint("epoch", 2)), (30, LAST), (10, Checkpoint("epoch", 10)))
    for run in (run for network in trained for run in network.runs):
        assert run.evaluation is not None
        assert run.explanation is not None
        for epoch, checkpoint in checkpoints:
            gaps = {"robust": Interval(epoch / 100)}
            rise = {"landscape": made({"rise": {"0.5": 2.0 * epoch}})}
            evaluated, explained = replace(run.evaluation, splits={}, gaps=gaps), run.explanation
            write_beside(run.source, "evaluation", evaluated, checkpoint)
            write_beside(run.source, "explanation", replace(explained, measures=rise), checkpoint)
    data = read_study(folder)
    (view,) = figure(data, "along-training").views
    gap, rise_panel = view.panels
    assert [(line.x, line.y) for line in gap.series] == [((2.0, 10.0, 30.0), (0.02, 0.1, 0.3))] * len(trained)
    assert rise_panel.series[0].y == (4.0, 20.0, 60.0)
    _, last, paths = figure(data, "flatness-gap").views[0].panels
    assert last.title.startswith("Last checkpoint")
    assert (last.series[0].x, last.series[0].y) == ((60.0,), (0.3,))
    assert paths.title == "Along training"
    assert (paths.series[0].x, paths.series[0].y) == ((4.0, 20.0, 60.0), (0.02, 0.1, 0.3))
