"""Remedies: the lines of a study file that would measure what a claim lacks, read back as YAML."""

import pytest
import yaml

from robustlens.claims import remedies
from robustlens.claims.estimates import lacking, listed
from robustlens.claims.evidence import Damaged, Missing, Unranked, Untested
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
    assert yaml.safe_load(remedies.methods()) == {"methods": [*pair, *trades]}


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
