"""Runs as evidence: missing, damaged and odd results are named, and each file is read once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.claim_data import N, Net, sweep, write
from helpers.claim_stories import check_one, story
from robustlens import claims
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.missing import Damaged, Missing
from robustlens.claims.wen2020 import quantities as wen2020
from robustlens.claims.wu2020 import quantities as wu2020
from robustlens.config import LAST, Checkpoint
from robustlens.results import ErrorRecord, StudyFolder, array_files, files
from robustlens.stats.bootstrap import Unusable


def test_a_measure_that_was_not_taken_is_named(tmp_path):
    nets = story("smoother-under-attack", "holds")
    nets[2] = replace(nets[2], drop=("smoothness/probability_change",))
    claim = check_one(tmp_path, "smoother-under-attack", nets)
    assert claim.verdict == "untested"
    assert "AT 0.2 (seed 0) has no smoothness/probability_change in its explanation" in claim.why
    nets[2] = replace(nets[2], drop=("spectrum",))
    spectra = check_one(tmp_path / "b", "singular-spread-falls", nets)
    assert "AT 0.2 (seed 0) has no measure spectrum in its explanation" in spectra.why


def test_layers_that_were_not_measured_are_named(tmp_path):
    nets = story("activation-spread-falls", "holds")
    nets[2] = replace(nets[2], drop=("activations",))
    claim = check_one(tmp_path, "activation-spread-falls", nets)
    assert claim.why == "AT 0.2 (seed 0) is done and has no activations/post-activation."
    nets[2] = replace(nets[2], status="failed")
    failed = check_one(tmp_path / "b", "feature-change-falls", nets)
    assert failed.why == "AT 0.2 (seed 0) failed (the loss became NaN) and has no smoothness/attack."


@pytest.mark.parametrize("name", ["evaluation.safetensors", "evaluation.json"])
def test_a_damaged_file_makes_claims_unclear_and_is_named(tmp_path, name):
    folder = write(tmp_path, story("accuracy-falls", "holds"))
    path = StudyFolder(folder).runs()[0].folder / name
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    claim = next(claim for claim in claims.check(folder) if claim.id == "accuracy-falls")
    assert claim.verdict == "unclear"
    assert f"{name}: damaged" in claim.why


def test_runs_measured_under_different_conditions_are_not_compared(tmp_path):
    for name, how in (
        ("smoother-under-attack", {"eps": 0.3}),
        ("awp-flatter", {"eps": 0.3}),
        ("awp-smaller-robust-gap", {"attacks": ["fgsm"]}),
    ):
        nets = story(name, "holds")
        nets[1] = replace(nets[1], conditions=how)
        claim = check_one(tmp_path / name, name, nets)
        assert claim.verdict == "unclear"
        assert "under different conditions" in claim.why


def test_results_of_another_plan_than_the_studys_are_no_evidence(tmp_path):
    folder = StudyFolder(write(tmp_path, sweep({0.0: {}, 0.1: {}})))
    plans = {"evaluation": {"seed": 0}, "explanation": {"examples": N}}
    folder.write_record(replace(folder.record, **plans))
    for run in StudyData.of(folder).runs:
        assert run.evaluation.splits
        assert run.explanation.measures
    folder.write_record(replace(folder.record, evaluation={"seed": 1}, explanation={"examples": 7}))
    for run in StudyData.of(folder).runs:
        with pytest.raises(Damaged, match=r"of another plan than the study's \(seed: 0 -> 1\)"):
            _ = run.evaluation
        with pytest.raises(Damaged, match=rf"of another plan than the study's \(examples: {N} -> 7\)"):
            _ = run.explanation
    options = {"explanation": {"examples": N, "options": {"landscape": {"steps": 3}}}}
    folder.write_record(replace(folder.record, **options))
    with pytest.raises(Missing, match="has no measure landscape in its explanation"):
        StudyData.of(folder).runs[0].measurement("landscape")


def test_too_few_errors_or_images_are_inconclusive(tmp_path):
    few = {"margins/test_correct": np.arange(N) >= 7}
    nets = [replace(net, arrays=few) for net in story("errors-indecisive", "holds")]
    assert (
        "share of the errors that are indecisive: Standard (seed 0) makes 7 errors"
        in check_one(tmp_path / "a", "errors-indecisive", nets).note
    )
    small = {"test/clean": np.arange(20) < 15, "test/index": np.arange(20)}
    nets = [replace(net, arrays=small) for net in story("accuracy-falls", "holds")]
    assert "on 20 images" in check_one(tmp_path / "b", "accuracy-falls", nets).why


def test_each_result_is_read_and_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    along = {10 * step: {"rise": 0.1 * step} for step in range(1, 5)}
    nets = [*sweep({0.0: {}, 0.1: {}}), Net(0.1, awp=True, along=along), Net(0.1, "trades", along=along)]
    folder = write(tmp_path, nets)
    reads: Counter[str] = Counter()
    read_bytes = files.read_bytes

    def counted(path: Path) -> bytes:
        reads[str(path.relative_to(folder))] += 1
        return read_bytes(path)

    for module in (files, array_files):
        monkeypatch.setattr(module, "read_bytes", counted)
    claims.check(folder)
    results = {path: count for path, count in reads.items() if path.rsplit("/", 1)[-1].startswith("e")}
    # Four runs at their primary checkpoint, two of them at four more; an evaluation and an explanation, with
    # a JSON file and an array file each.
    assert len(results) == (4 + 2 * 4) * 2 * 2
    assert set(results.values()) == {1}


def test_where_the_images_lie_is_read_once_for_each_of_the_arrays_of_a_part(tmp_path, monkeypatch):
    order = np.random.default_rng(0).permutation(N)
    nets = [Net(0.1, arrays={"test/index": order}), Net(0.2, arrays={"test/index": np.arange(N)})]
    study = StudyData.of(StudyFolder(write(tmp_path, nets)))
    reads: Counter[str] = Counter()
    array = RunData.array
    monkeypatch.setattr(
        RunData, "array", lambda run, *place: reads.update([f"{run.eps}/{place[-1]}"]) or array(run, *place)
    )
    for run in study.runs:
        clean = run.array("evaluation", "test", "clean").astype(float)
        by_position = clean[np.argsort(run.array("evaluation", "test", "index"))]
        reads.clear()
        for _ in range(3):
            examples, values = run.evaluated("test", "clean")
            assert np.array_equal(values, by_position)
        assert examples == study.runs[0].evaluated("test", "robust")[0]
        assert reads[f"{run.eps}/index"] == 1
        assert reads[f"{run.eps}/clean"] == 3


def test_the_common_alpha_is_computed_once_for_a_study(tmp_path, monkeypatch):
    folder = write(tmp_path, story("flatter-smaller-gap", "holds"))
    calls = []
    compute = wu2020._common_alpha

    def counted(runs):
        calls.append(len(runs))
        return compute(runs)

    monkeypatch.setattr(wu2020, "_common_alpha", counted)
    claims.check(folder)
    assert calls == [6]


def test_arrays_of_other_lengths_are_named_with_their_lengths(tmp_path):
    study = StudyData.of(StudyFolder(write(tmp_path, [
        Net(0.1, arrays={"margins/test_correct": np.ones(N - 1, dtype=bool)}),
        Net(0.2, arrays={"test/index": np.arange(N - 2)}),
    ])))  # fmt: skip
    first, second = study.runs
    with pytest.raises(Unusable) as caught:
        wen2020.indecisive_rate(first)
    said = "AT 0.1 (seed 0): margins/test_probability has 400 images, margins/test_correct has 399"
    assert str(caught.value) == said
    with pytest.raises(Unusable) as caught:
        wen2020.accuracy(second)
    assert str(caught.value) == "AT 0.2 (seed 0): test/index has shape (398,), test/clean has 400 images"


def test_fifty_images_are_enough(tmp_path):
    arrays = {"test/clean": np.arange(50) < 40, "test/index": np.arange(50)}
    fewer = {"test/clean": np.arange(49) < 40, "test/index": np.arange(49)}
    study = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, arrays=arrays), Net(0.2, arrays=fewer)])))
    assert wen2020.accuracy(study.runs[0]).value() == pytest.approx(0.8)
    with pytest.raises(Unusable, match="measured on 49 images; at least 50 are needed"):
        wen2020.accuracy(study.runs[1])


def test_a_result_that_is_not_there_is_named_with_its_checkpoint(tmp_path):
    (run,) = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, along={40: {}}, drop=("spectrum",))]))).runs
    last = run.at(LAST)
    assert (run.name, last.name) == ("AT 0.1 (seed 0)", "AT 0.1 (seed 0, last)")
    for one, result in ((run, "evaluation"), (last, "evaluation-last")):
        with pytest.raises(Missing) as caught:
            one.array("evaluation", "test", "nothing")
        assert str(caught.value) == f"{one.name} has no test/nothing in its {result}"
    with pytest.raises(Missing, match="is done and has no explanation-epoch-0007"):
        _ = run.at(Checkpoint("epoch", 7)).explanation
    run.run.update(status="trained", error=ErrorRecord("Failure", "out of memory", 5))
    with pytest.raises(Missing, match=r"failed \(out of memory\) and has no explanation-epoch-0008"):
        _ = StudyData.of(StudyFolder(tmp_path)).runs[0].at(Checkpoint("epoch", 8)).explanation


def test_adversarial_training_of_no_strength_is_neither_standard_nor_adversarial(tmp_path):
    nets = [
        Net(0.0, "standard"),
        Net(0.1, "standard", method="Standard, eps in its recipe"),
        Net(0.0, method="AT without strength"),
        Net(0.1),
        Net(0.1, "trades"),
        Net(0.1, awp=True),
    ]
    study = StudyData.of(StudyFolder(write(tmp_path, nets)))
    assert [run.eps for run in study.runs] == [0.0, 0.0, 0.0, 0.1, 0.1, 0.1]
    plain = [run.entry.method for run in study.unperturbed()]
    assert plain == ["Standard", "Standard, eps in its recipe", "AT"]
    assert [run.entry.method for run in study.adversarial()] == ["AT", "TRADES", "AT+AWP"]
