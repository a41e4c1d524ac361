"""The bound, instance margins and the Jacobian, against the files they are read from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.made_networks import Member
from helpers.measured_more import extend_explanation, made
from helpers.report_figures import figure, series
from helpers.study_files import write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.results import Measurement

MEMBERS = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1), Member("AT", "at", 0.2))


def bound_value(member: int, seed: int) -> dict[str, Any]:
    """The bound as explain measures it: numbers that name their member and seed."""
    terms = {"sigma_product": -10.0 * member - seed, "distance": 0.5, "v_min": None, "u_min": None}
    split = {
        "assumption_3_1_fails": {"paths": 0.1 * member + 0.02 * seed},
        "stretch": {"at_x": {"fails": 0.0}, "on_the_way": {"fails": None}},
    }
    gap = 0.2 - 0.05 * member
    vacuous, because = member == 0, ["covering"] if member == 0 else []
    return {
        "log10": terms | {"complexity_term": 12.0},
        "gammas": [
            {"gamma": 1.0, "vacuous": True, "because": ["margin", "covering"], "ramp_gap": gap},
            {"gamma": 2.0, "vacuous": vacuous, "because": because, "ramp_gap": None},
        ],
        "covering": {"dimension": 9.5, "two_nn": 24.5},
        "test": split,
        "train": split,
    }


def measures(member: int, seed: int) -> dict[str, Measurement]:
    distances = {"test_upper": np.linspace(0, 1 + member, 5), "train_upper": np.array([0.0, np.inf, 2.0])}
    singular_values = np.array([[3.0, 1.0], [5.0, 2.0]]) * (member + 1)
    return {
        "bound": made(bound_value(member, seed), distances),
        "jacobian": made({}, {"test_singular_values": singular_values}),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_study(tmp_path_factory.mktemp("study"), members=MEMBERS, seeds=2, n=60)
    for member, network in enumerate(read_study(folder).networks):
        for run in network.runs:
            extend_explanation(run.source, measures(member, run.seed))
    return read_study(folder)


def test_terms_are_means_over_seeds(data: ReportData) -> None:
    drawn = figure(data, "bound")
    line = series(drawn, "Product of the smallest singular values", "AT 0.2", "Terms")
    assert line.x == (0.2,)
    assert line.y == pytest.approx((-20.5,))
    # What is None everywhere, an infinite logarithm, is no panel.
    assert "Smallest instance margin" not in {panel.title for panel in drawn.views[0].panels}


def test_the_measured_gap_is_drawn_for_every_gamma_that_has_one(data: ReportData) -> None:
    drawn = figure(data, "bound")
    (view,) = (view for view in drawn.views if view.name == "Measured ramp-risk gap")
    assert [panel.title for panel in view.panels] == ["gamma 1"]
    assert series(drawn, "gamma 1", "AT 0.1", view.name).y == pytest.approx((0.15,))


def test_the_table_says_where_and_why_the_bound_is_vacuous(data: ReportData) -> None:
    (table,) = figure(data, "bound").tables
    rows = {label: dict(zip(table.columns, cells, strict=True)) for label, cells in table.rows}
    assert rows["Standard"]["vacuous for"] == "4 of 4 gammas"
    assert rows["AT 0.2"]["vacuous for"] == "2 of 4 gammas"
    assert rows["AT 0.2"]["because of"] == "margin, covering"
    assert rows["AT 0.1"]["singular values"] == "-10.5"
    assert rows["AT 0.1"]["v_min"] == "-"
    assert rows["AT 0.1"]["k (nets, TwoNN)"] == "9.5, 24.5"


def test_what_the_bound_leaves_out_and_reads_in_favour_is_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=MEMBERS[:2], n=60)
    left_out: dict[str, Any] = {"uncovered": {"lstm": {"kind": "LSTM", "parameters": 3}}, "is_bound": False}
    bounds: tuple[dict[str, Any], ...] = ({"is_bound": True}, left_out)
    for network, more in zip(read_study(folder).networks, bounds, strict=True):
        for run in network.runs:
            favourable = {"favourable": ["one reading", "another"]}
            value = bound_value(0, run.seed) | favourable | more
            explanation = extend_explanation(run.source, {"bound": made(value, {})})
            before = explanation.measures["spectrum"]
            spectrum = replace(before, value={**before.value, **left_out})
            measures = {**explanation.measures, "spectrum": spectrum}
            run.source.write("explanation", replace(explanation, measures=measures))
    data = read_study(folder)
    drawn = figure(data, "bound")
    assert "leaves out, where they are: lstm (LSTM)." in drawn.note
    assert "lstm (LSTM)" in figure(data, "spectrum").note
    terms, readings = drawn.tables
    place = terms.columns.index("vacuous for")
    assert {label: cells[place] for label, cells in terms.rows} == {
        "Standard": "2 of 2 gammas",
        "AT 0.1": "no bound: it leaves layers out",
    }
    assert dict(readings.rows)["Standard"] == ("one reading; another",)


def test_distances_pool_seeds_and_leave_out_what_was_never_reached(data: ReportData) -> None:
    drawn = figure(data, "instance-margins")
    line = series(drawn, "Test images", "AT 0.2", "Distance to the boundary")
    assert (min(line.x), max(line.x), max(line.y)) == (0.0, 3.0, 1.0)
    training = series(drawn, "Training images", "Standard", "Distance to the boundary")
    assert max(training.x) == 2.0
    rising = series(drawn, "Paths on which the margin rises again", "AT 0.1", "Assumptions")
    assert rising.y == pytest.approx((0.11,))


def test_the_jacobians_largest_values_are_drawn(data: ReportData) -> None:
    drawn = figure(data, "jacobian")
    assert set(series(drawn, "Largest", "AT 0.1").x) == {6.0, 10.0}
    assert set(series(drawn, "Second largest", "Standard").x) == {1.0, 2.0}


def test_a_study_without_these_measures_has_figures_without_views(tmp_path: Path) -> None:
    plain = read_study(write_study(tmp_path, members=MEMBERS[:1], n=60))
    for name in ("bound", "instance-margins", "jacobian"):
        drawn = figure(plain, name)
        assert drawn.views == ()
        assert drawn.tables == ()
