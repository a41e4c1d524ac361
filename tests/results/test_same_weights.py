"""Evaluations and explanations of the same weights find each other, under whichever name."""

from dataclasses import replace

import pytest

from helpers.study_files import QUICKSTART, write_study
from robustlens.config import BEST, LAST, Checkpoint
from robustlens.results import StudyFolder
from robustlens.results.same_weights import explanation_beside

EPOCH = Checkpoint("epoch", 4)


@pytest.fixture
def run(tmp_path):
    """A run that was evaluated and explained at its best checkpoint."""
    return StudyFolder(write_study(tmp_path, members=QUICKSTART[:1], n=20)).runs()[0]


def explained(run, checkpoint, other=None):
    """Let the explanation be of a checkpoint, and lie under a name."""
    explanation = run.explanation()
    provenance = replace(explanation.provenance, checkpoint=checkpoint)
    run.write("explanation", replace(explanation, provenance=provenance), other)


def evaluation_of(run, checkpoint):
    evaluation = run.evaluation()
    return replace(evaluation, provenance=replace(evaluation.provenance, checkpoint=checkpoint))


def test_the_primary_ones_are_of_one_checkpoint(run):
    assert explanation_beside(run, run.evaluation()).provenance.checkpoint == BEST
    assert explanation_beside(run, evaluation_of(run, LAST), LAST) is None


@pytest.mark.parametrize("checkpoint", [LAST, EPOCH])
def test_a_primary_explanation_of_other_weights_is_found_there(run, checkpoint):
    explained(run, checkpoint)
    assert explanation_beside(run, run.evaluation()) is None
    found = explanation_beside(run, evaluation_of(run, checkpoint), checkpoint)
    assert found.provenance.checkpoint == checkpoint


def test_an_explanation_beside_the_primary_one_belongs_to_a_primary_evaluation(run):
    explained(run, LAST, LAST)
    assert explanation_beside(run, evaluation_of(run, LAST)).provenance.checkpoint == LAST


def test_without_an_evaluation_the_name_counts(run):
    explained(run, LAST)
    assert explanation_beside(run, None).provenance.checkpoint == LAST
    assert explanation_beside(run, None, EPOCH) is None
