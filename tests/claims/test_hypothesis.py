"""Hypotheses: the parts of a study in which they are checked, settings and checkpoints."""

from dataclasses import replace

import pytest

from helpers.claim_data import Net, sweep, write
from helpers.claim_stories import STRENGTHS, SWEEPS, story
from robustlens import claims
from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.evidence import StudyData
from robustlens.claims.hypothesis import Hypothesis
from robustlens.claims.wen2020 import quantities
from robustlens.config import LAST, Checkpoint
from robustlens.results import ClaimResult, StudyFolder


def by_setting(folder, name) -> dict[str, ClaimResult]:
    return {claim.setting: claim for claim in claims.check(folder) if claim.id == name}


def test_a_new_claim_is_one_function_and_one_entry(tmp_path):
    def half_of_accuracy(run):
        quantity = quantities.accuracy(run)
        return replace(quantity, function=lambda weights: quantities.accuracy(run).function(weights) / 2)

    toy = Hypothesis("toy", "nobody", "It falls.", "half", "half", half_of_accuracy, -1, STRENGTH_SWEEP)
    folder = write(tmp_path, story("accuracy-falls", "holds"))
    claim = toy.check(StudyData.of(StudyFolder(folder)))
    assert claim.effect.value == pytest.approx(-0.1)
    assert claim.verdict == "as claimed"


def test_a_study_of_two_settings_gets_a_verdict_in_each(tmp_path):
    knob, values, effect = SWEEPS["accuracy-falls"]

    def in_setting(setting, values):
        knobs = {eps: {knob: value} for eps, value in zip(STRENGTHS, values, strict=True)}
        return [replace(net, method=f"{net.name} ({setting})") for net in sweep(knobs, setting=setting)]

    others = [Net(0.1, method="AT (wide)", setting="wide"), Net(0.1, awp=True, setting="plain")]
    nets = [*in_setting("plain", values), *in_setting("BN", values[::-1]), *others]
    folder = write(tmp_path, nets)
    accuracy = by_setting(folder, "accuracy-falls")
    assert {setting: claim.verdict for setting, claim in accuracy.items()} == {
        "in Standard (plain), AT (plain)": "as claimed",
        "in Standard (BN), AT (BN)": "opposite",
    }
    effects = [claim.effect.value for claim in accuracy.values()]
    assert effects == pytest.approx([effect, -effect], abs=0.003)
    # A claim that is not about strengths is checked once, on the whole study.
    assert list(by_setting(folder, "awp-flatter")) == [""]


def test_awp_is_checked_at_the_best_and_at_the_last_checkpoint(tmp_path):
    def net(awp, best, last):
        return Net(0.1, awp=awp, knobs={"robust_gap": best}, along={40: {"robust_gap": last}})

    folder = write(tmp_path, [net(False, 0.05, 0.4), net(True, 0.15, 0.1)])
    gaps = by_setting(folder, "awp-smaller-robust-gap")
    assert {setting: claim.verdict for setting, claim in gaps.items()} == {
        "at the best checkpoint": "opposite",
        "at the last checkpoint": "as claimed",
    }
    assert gaps["at the last checkpoint"].effect.value == pytest.approx(-0.3)
    assert {value.checkpoint for value in gaps["at the last checkpoint"].values} == {"last"}
    assert {value.checkpoint for value in gaps["at the best checkpoint"].values} == {None}


def test_strengths_are_compared_at_the_best_and_at_the_last_checkpoint(tmp_path):
    nets = [
        Net(eps, "at" if eps else "standard", knobs={"accuracy": best}, along={40: {"accuracy": last}})
        for eps, best, last in ((0.0, 0.9, 0.7), (0.1, 0.8, 0.8), (0.2, 0.6, 0.9))
    ]
    accuracy = by_setting(write(tmp_path, nets), "accuracy-falls")
    assert {setting: claim.verdict for setting, claim in accuracy.items()} == {
        "at the best checkpoint": "as claimed",
        "at the last checkpoint": "opposite",
    }
    assert accuracy["at the last checkpoint"].effect.value == pytest.approx(0.2)


def test_a_quantity_that_the_last_checkpoint_lacks_is_not_reported_twice(tmp_path):
    folder = write(tmp_path, [Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)])
    for file in folder.glob("runs/*/explanation-last.*"):
        file.unlink()
    checked = [(claim.id, claim.setting) for claim in claims.check(folder)]
    assert ("awp-flatter", "at the best checkpoint") in checked
    assert ("awp-flatter", "at the last checkpoint") not in checked
    assert ("flatter-smaller-gap", "at the last checkpoint") not in checked
    assert ("awp-smaller-robust-gap", "at the last checkpoint") in checked


def test_measures_of_the_last_checkpoint_alone_say_nothing_of_the_best_one(tmp_path):
    def net(awp, rise):
        return Net(0.1, awp=awp, along={40: {"rise": rise}})

    folder = write(tmp_path, [net(False, 0.8), net(True, 0.2)])
    apart = by_setting(folder, "awp-flatter")["at the last checkpoint"]
    for run in StudyFolder(folder).runs():  # as `explanation: {checkpoint: last}` leaves it
        last = run.explanation(LAST)
        assert last is not None
        run.write("explanation", last)
        run.files("explanation", LAST).remove()
    flatter = by_setting(folder, "awp-flatter")
    assert flatter["at the last checkpoint"].effect == apart.effect
    untested = flatter["at the best checkpoint"]
    assert untested.verdict == "untested"
    assert "has no explanation of the weights that were attacked" in untested.why
    correlated = by_setting(folder, "flatter-smaller-gap")
    assert {claim.verdict for where, claim in correlated.items() if "best" in where} == {"untested"}


def test_the_setting_names_the_primary_checkpoint(tmp_path):
    folder = write(tmp_path, [Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)])
    for run in StudyFolder(folder).runs():
        for stage in ("evaluation", "explanation"):
            result = run.result(stage)
            provenance = replace(result.provenance, checkpoint=Checkpoint("epoch", 10))
            run.write(stage, replace(result, provenance=provenance))
    settings = set(by_setting(folder, "awp-flatter"))
    assert settings == {"at the epoch-0010 checkpoint", "at the last checkpoint"}


def test_a_result_that_cannot_be_used_at_the_last_checkpoint_is_reported_there(tmp_path):
    folder = write(tmp_path, [Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)])
    run = StudyFolder(folder).runs()[0]
    result = run.evaluation(LAST)
    assert result is not None
    run.write("evaluation", replace(result, attacks=("fgsm",)), LAST)
    gaps = by_setting(folder, "awp-smaller-robust-gap")
    assert "under different conditions" in gaps["at the last checkpoint"].why


def test_what_was_never_measured_is_untested_whatever_else_cannot_be_used(tmp_path):
    """Forty images are too few for a robust gap; but without a landscape there is no claim about one."""
    nets = [Net(eps, index=range(40), drop=("landscape",)) for eps in (0.05, 0.1, 0.15, 0.2)]
    claim = by_setting(write(tmp_path, nets), "flatter-smaller-gap")[""]
    assert claim.verdict == "untested"
    assert "landscape" in claim.why
    assert "landscape" in claim.remedy
