"""The bound, instance margins and the Jacobian in the report, against the files they are read from."""

from pathlib import Path

import numpy as np
import pytest

from helpers.made_networks import Member
from helpers.study_files import write_study
from robustlens.report import data as collect
from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Figure, Series
from robustlens.report.figures.bound import bound, instance_margins, jacobian

MEMBERS = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1), Member("AT", "at", 0.2))


def measured(member: int, seed: int) -> dict[str, object]:
    """What `explain.measure_bound` would have found: numbers that name their member and seed."""
    terms = {"sigma_product": -10.0 * member - seed, "distance": 0.5, "v_min": None, "u_min": None}
    split = {
        "assumption_3_1_fails": {"paths": 0.1 * member + 0.02 * seed},
        "stretch": {"at_x": {"fails": 0.0}, "on_the_way": {"fails": None}},
    }
    return {
        "log10": terms | {"complexity_term": 12.0},
        "gammas": [
            {
                "gamma": 1.0,
                "vacuous": True,
                "because": ["margin", "covering"],
                "ramp_gap": 0.2 - 0.05 * member,
            },
            {
                "gamma": 2.0,
                "vacuous": member == 0,
                "because": ["covering"] if member == 0 else [],
                "ramp_gap": None,
            },
        ],
        "covering": {"dimension": 9.5, "two_nn": 24.5},
        "test": split,
        "train": split,
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_study(tmp_path_factory.mktemp("study"), members=MEMBERS, seeds=2, n=60)
    for place, group in enumerate(collect.study(folder).groups):
        for record in group.records:
            content = record.run.read_json("explanation") or {}
            content["measures"]["bound"] = {"value": measured(place, record.seed)}
            content["measures"]["jacobian"] = {"value": {}}
            kept = {
                key: record.run.array("explanation", key) for key in record.run.array_names("explanation")
            }
            kept["bound/test_upper"] = np.linspace(0, 1 + place, 5)
            kept["bound/train_upper"] = np.array([0.0, np.inf, 2.0])
            kept["jacobian/test_singular_values"] = np.array([[3.0, 1.0], [5.0, 2.0]]) * (place + 1)
            record.run.write_result("explanation", content, kept)
    return collect.study(folder)


def series(figure: Figure, view: str, panel: str, label: str) -> Series:
    (chosen,) = (found for found in figure.views if found.name == view)
    (found,) = (found for found in chosen.panels if found.title == panel)
    return next(line for line in found.series if line.label == label and line.mark != "thread")


def test_terms_are_means_over_seeds(study: ReportData) -> None:
    found = series(bound(study), "Terms", "Product of the smallest singular values", "AT 0.2")
    assert found.x == (0.2,)
    assert found.y == (pytest.approx(-20.5),)
    # What is None everywhere, an infinite logarithm, is no panel.
    assert "Smallest instance margin" not in {panel.title for panel in bound(study).views[0].panels}


def test_the_measured_gap_is_drawn_for_every_gamma_that_has_one(study: ReportData) -> None:
    (view,) = (view for view in bound(study).views if view.name == "Measured ramp-risk gap")
    assert [panel.title for panel in view.panels] == ["gamma 1"]
    assert series(bound(study), view.name, "gamma 1", "AT 0.1").y == (pytest.approx(0.15),)


def test_the_table_says_where_and_why_the_bound_is_vacuous(study: ReportData) -> None:
    (table,) = bound(study).tables
    rows = {label: dict(zip(table.columns, cells, strict=True)) for label, cells in table.rows}
    assert rows["Standard"]["vacuous for"] == "4 of 4 gammas"
    assert rows["AT 0.2"]["vacuous for"] == "2 of 4 gammas"
    assert rows["AT 0.2"]["because of"] == "margin, covering"
    assert rows["AT 0.1"]["singular values"] == "-10.5"
    assert rows["AT 0.1"]["v_min"] == "-"
    assert rows["AT 0.1"]["k (nets, TwoNN)"] == "9.5, 24.5"


def test_distances_pool_seeds_and_leave_out_what_was_never_reached(study: ReportData) -> None:
    figure = instance_margins(study)
    found = series(figure, "Distance to the boundary", "Test images", "AT 0.2")
    assert (min(found.x), max(found.x), max(found.y)) == (0.0, 3.0, 1.0)
    assert max(series(figure, "Distance to the boundary", "Training images", "Standard").x) == 2.0
    rising = series(figure, "Assumptions", "Paths on which the margin rises again", "AT 0.1")
    assert rising.y == (pytest.approx(0.11),)


def test_the_jacobians_largest_values_are_drawn(study: ReportData) -> None:
    assert set(series(jacobian(study), "", "Largest", "AT 0.1").x) == {6.0, 10.0}
    assert set(series(jacobian(study), "", "Second largest", "Standard").x) == {1.0, 2.0}


def test_a_study_without_these_measures_has_figures_without_views(tmp_path: Path) -> None:
    plain = collect.study(write_study(tmp_path, members=MEMBERS[:1], n=60))
    for draw in (bound, instance_margins, jacobian):
        figure = draw(plain)
        assert figure.views == ()
        assert figure.tables == ()
