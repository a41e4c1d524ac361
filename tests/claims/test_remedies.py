"""Remedies: the lines of a study file that would measure what a claim lacks, read back as YAML."""

import pytest
import yaml

from robustlens.claims import remedies
from robustlens.claims.estimates import lacking, listed
from robustlens.claims.missing import Damaged, Missing, Unranked, Untested
from robustlens.results import StudyRecord
from robustlens.stats.bootstrap import Unusable


def test_a_measure_is_added_to_those_of_the_study_once():
    study = StudyRecord(explanation={"measures": ["margins", "spectrum"]})
    lines = yaml.safe_load(remedies.measured(study, "hessian"))
    assert lines == {"explanation": {"measures": ["margins", "spectrum", "hessian"]}}
    assert remedies.measured(study, "spectrum") == ""
    assert yaml.safe_load(remedies.measured(StudyRecord(), "margins")) == {
        "explanation": {"measures": ["margins"]}
    }


def test_epochs_are_kept_and_measured_unless_both_stages_do_so_already():
    def record(evaluation, explanation):
        return StudyRecord(evaluation={"checkpoint": evaluation}, explanation={"checkpoint": explanation})

    expected = {
        "defaults": {"keep_every": 1},
        "evaluation": {"checkpoint": "every"},
        "explanation": {"checkpoint": "every"},
    }
    for study in (StudyRecord(), record("every", "best"), record("best", "every"), record("both", "both")):
        assert yaml.safe_load(remedies.along_training(study)) == expected
    assert remedies.along_training(record("every", "every")) == ""


@pytest.mark.parametrize(
    ("threat", "eps"),
    [({"eps": 0.5}, [0.25, 0.5]), ({"eps": 0.0}, ["4/255", "8/255"]), ({}, ["4/255", "8/255"])],
)
def test_strengths_are_the_studys_own_and_half_of_it(threat, eps):
    standard, at = yaml.safe_load(remedies.strengths(StudyRecord(threat=threat)))["methods"]
    assert standard == {"label": "Standard", "objective": "standard"}
    assert at == {"label": "AT", "objective": "at", "eps": eps}


def test_pairs_and_methods_to_correlate_over():
    pair = [{"label": "AT", "objective": "at"}, {"label": "AT+AWP", "objective": "at", "awp": {}}]
    trades = [
        {"label": "TRADES", "objective": "trades"},
        {"label": "TRADES+AWP", "objective": "trades", "awp": {}},
    ]
    assert yaml.safe_load(remedies.awp_pair()) == {"methods": pair}
    more = [{"label": "MART", "objective": "mart"}, {"label": "FGSM", "objective": "fgsm"}]
    assert yaml.safe_load(remedies.methods()) == {"methods": [*pair, *trades, *more]}


def test_the_last_checkpoint_is_measured_unless_both_stages_do_so_already():
    def record(evaluation, explanation):
        return StudyRecord(evaluation={"checkpoint": evaluation}, explanation={"checkpoint": explanation})

    expected = {"evaluation": {"checkpoint": "every"}, "explanation": {"checkpoint": "every"}}
    for study in (StudyRecord(), record("both", "best"), record("last", "every")):
        assert yaml.safe_load(remedies.last_checkpoint(study)) == expected
    assert remedies.last_checkpoint(record("both", "every")) == ""


def test_controls_and_ladders_of_awp():
    small, large = yaml.safe_load(remedies.awp_by_images())["methods"][2:]
    assert small["awp"] == {"images": "small-loss", "loss_threshold": 1.7}
    assert large["awp"] == {"images": "large-loss", "loss_threshold": 1.7}
    assert yaml.safe_load(remedies.random_control())["methods"][2]["rwp"] == {}
    for option, values in (("gamma", [0.0025, 0.005, 0.01]), ("steps", [1, 2, 4])):
        plain, *rungs = yaml.safe_load(remedies.awp_ladder(option))["methods"]
        assert "awp" not in plain
        assert [method["awp"] for method in rungs] == [{option: value} for value in values]


def test_reasons_are_listed_up_to_two():
    one, two, three = Missing("a"), Missing("b"), Missing("c")
    assert listed([one]) == "a"
    assert listed([one, two]) == "a; b"
    assert listed([one, two, three]) == "a; b; and 1 more"


@pytest.mark.parametrize("measured_in_vain", [Damaged("damaged"), Unranked("is the same at all epochs")])
def test_a_claim_is_untested_only_where_nothing_was_measured_in_vain(measured_in_vain):
    absent, planned = Missing("a", "lines of a"), Missing("b")
    untested = lacking("why", [planned, absent])
    assert isinstance(untested, Untested)
    assert (str(untested), untested.remedy) == ("why", "lines of a")
    assert lacking("why", [absent], "own lines").remedy == "own lines"
    assert lacking("why", []).remedy == ""
    unusable = lacking("why", [absent, measured_in_vain], "own lines")
    assert type(unusable) is Unusable
