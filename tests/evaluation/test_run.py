"""Evaluations of run folders and of any model in a folder: typed, sealed, made once, of the right images."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.evaluated_models import blob_splits, image_network, image_splits, plan, run_of, stop_after
from robustlens import models, reliability
from robustlens.config import BEST, LAST, Checkpoint
from robustlens.errors import LockedError, StateError, StoppedError
from robustlens.evaluation import Shard, attack_run, evaluate_model, evaluate_run, evaluate_splits
from robustlens.executors.setbacks import Reached
from robustlens.results import EvaluationResult, Run, locks, verify
from robustlens.results.files import read_json, write_json
from robustlens.stats.intervals import Interval


@pytest.fixture
def without_flags(monkeypatch):
    """Evaluations that look for no flags, which costs most of their time here."""
    monkeypatch.setattr(reliability, "check", lambda *arguments, **options: ())


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def progress_seconds(run):
    """Seconds of attacks that the progress of a stopped evaluation knows of."""
    return sum(
        float(load_file(path)["seconds"].sum()) for path in run.state_folder().rglob("progress*.safetensors")
    )


# -- runs ----------------------------------------------------------------------------------------------


def test_a_stored_evaluation_says_the_same_as_its_masks(tmp_path):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    asked = plan(threat={"eps": 0.05}, curve=[0.5, 1])
    made = evaluate_run(run, asked, splits=splits)
    read = run.evaluation()
    assert isinstance(read, EvaluationResult)
    assert read == made, "as written, but for the arrays"
    assert read.provenance == run.expected(asked)
    assert all(isinstance(gap, Interval) for gap in read.gaps.values())
    for name, split in read.splits.items():
        for attack, interval in split.by_attack.items():
            assert interval.value == pytest.approx(split.arrays[attack].mean())
        right = [int(split.arrays[key].sum()) for key in ("clean", *split.by_attack)]
        assert list(split.broken.values()) == [before - after for before, after in pairwise(right)]
        assert split.attacked == {"fgsm": right[0], "pgd-5": right[1], "min-norm": right[0]}, name
    assert read.splits["train"].arrays["index"].tolist() == splits.train.index.tolist()
    assert not [check for check in verify(run.folder) if check.problem or not check.sealed]


@pytest.mark.usefixtures("without_flags")
def test_a_current_evaluation_is_not_made_again(tmp_path, monkeypatch):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    made = evaluate_run(run, plan(), splits=splits)
    before = stamps(tmp_path)
    monkeypatch.setattr(models, "load", lambda *args, **options: pytest.fail("the network was loaded"))
    assert evaluate_run(run, plan(), splits=splits) == made
    monkeypatch.setattr("robustlens.results.run_folder.__version__", "99.0")
    assert evaluate_run(run, plan(), splits=splits) == made, "a result of another version stays current"
    assert stamps(tmp_path) == before


@pytest.mark.usefixtures("without_flags")
def test_the_search_of_the_curve_is_a_part_of_the_plan(tmp_path):
    """Distances of the two searches are never mixed: a result that names none is one of the plain search."""
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    plain, adaptive = (plan(curve=[1, 2], curve_search=search) for search in ("plain", "adaptive"))
    before = evaluate_run(run, plain, splits=splits).splits["test"].arrays["distance"]
    path = run.folder / "evaluation.json"
    content = read_json(path, "evaluation")
    assert content["plan"].pop("curve_search") == "plain"
    write_json(path, {name: value for name, value in content.items() if name != "sha256"}, "evaluation")
    assert run.is_current("evaluation", plain)
    assert not run.is_current("evaluation", adaptive)
    again = evaluate_run(run, adaptive, splits=splits)
    assert again.provenance.plan["curve_search"] == "adaptive"
    after = again.splits["test"].arrays["distance"]
    assert not np.array_equal(before, after)
    assert np.array_equal(before == 0, after == 0)
    both = (before > 0) & np.isfinite(before) & np.isfinite(after)
    assert np.median(np.abs(after[both] / before[both] - 1)) <= 0.05
    for same in ({"curve": []}, {"curve": [1], "threat": {"norm": "L2", "eps": 0.5}}):
        assert plan(**same, curve_search="plain") == plan(**same, curve_search="adaptive")


@pytest.mark.parametrize("change", ["plan", "weights"])
@pytest.mark.usefixtures("without_flags")
def test_an_evaluation_of_anything_else_is_made_again(tmp_path, change):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    before = evaluate_run(run, plan(), splits=splits)
    asked = plan(seed=1) if change == "plan" else plan()
    if change == "weights":
        other = run_of(splits, tmp_path / "other", [LAST, BEST])
        run.write_weights(BEST, other.weights_path(BEST).read_bytes())
    assert evaluate_run(run, asked, splits=splits).provenance.difference(before.provenance) == change
    assert run.is_current("evaluation", asked)


@pytest.mark.usefixtures("without_flags")
def test_images_of_an_older_plan_do_not_stay_beside_a_newer_evaluation(tmp_path):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    evaluate_run(run, plan(save_adversarial=True), splits=splits)
    assert run.path("adversarial.safetensors").exists()
    evaluate_run(run, plan(), splits=splits)
    assert not run.path("adversarial.safetensors").exists()


@pytest.mark.usefixtures("without_flags")
def test_other_images_are_refused(tmp_path):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    with pytest.raises(StateError, match=rf"run\.json: .*expected {splits.fingerprint}") as caught:
        evaluate_run(run, plan(), splits=blob_splits(seed=5))
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    assert run.evaluation() is None
    evaluate_run(run, plan(), splits=splits)
    with pytest.raises(StateError, match=r"run\.json"):  # also where nothing is left to do
        evaluate_run(run, plan(), splits=blob_splits(seed=5))


@pytest.mark.usefixtures("without_flags")
def test_a_run_that_does_not_name_its_images_takes_any(tmp_path):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    run.update(data="")
    evaluate_run(run, plan(), splits=splits)
    assert run.is_current("evaluation", plan())


@pytest.mark.usefixtures("without_flags")
def test_every_checkpoint_has_its_own_evaluation(tmp_path):
    splits, epoch = blob_splits(), Checkpoint("epoch", 1)
    run = run_of(splits, tmp_path, [BEST, LAST, epoch])
    primary = evaluate_run(run, plan(checkpoint="every", save_adversarial=True), splits=splits)
    assert primary.provenance.checkpoint == BEST
    for beside in (LAST, epoch):
        alone = Run(tmp_path / "alone" / str(beside))
        alone.bind(run.recipe)
        alone.update(data=splits.fingerprint, epochs_done=3)
        alone.write_weights(beside, run.weights_path(beside).read_bytes())
        wanted = evaluate_run(alone, plan(checkpoint=str(beside)), splits=splits)
        evaluation = run.evaluation(beside)
        assert evaluation.provenance.checkpoint == beside
        assert evaluation.gaps == wanted.gaps
        assert evaluation.splits["test"].by_attack == wanted.splits["test"].by_attack
        assert (tmp_path / f"adversarial-{beside}.safetensors").exists()
    evaluate_run(run, plan(checkpoint="both"), splits=splits)
    assert run.evaluation(LAST) is not None, "of another plan, but made by this one"
    assert run.evaluation(epoch) is None, "of another plan: it would be taken for this one's"


@pytest.mark.usefixtures("without_flags")
def test_a_stopped_evaluation_of_a_run_goes_on(tmp_path):
    splits = blob_splits()
    whole = evaluate_run(run_of(splits, tmp_path / "whole"), plan(), splits=splits)
    run = run_of(splits, tmp_path / "stopped")
    events = []
    for batches in (2, 1):
        with pytest.raises(StoppedError):
            evaluate_run(run, plan(), splits=splits, progress=stop_after(batches))
        assert run.evaluation() is None
    before = progress_seconds(run)
    evaluation = evaluate_run(run, plan(), splits=splits, progress=events.append)
    assert events
    attacks = sum(sum(split.seconds.values()) for split in evaluation.splits.values())
    assert evaluation.seconds >= attacks > before > 0, "the time of all sittings"
    assert evaluation.splits["test"].by_attack == whole.splits["test"].by_attack
    for name in evaluation.splits:
        for key, array in evaluation.splits[name].arrays.items():
            np.testing.assert_array_equal(array, whole.splits[name].arrays[key])
    assert not run.state_folder().exists()


def test_damaged_weights_are_named_before_anything_is_attacked(tmp_path):
    splits = blob_splits()
    run = run_of(splits, tmp_path)
    path = run.weights_path(BEST)
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(StateError, match=r"best\.safetensors: damaged"):
        evaluate_run(run, plan(), splits=splits, progress=lambda event: pytest.fail("attacked"))


# -- any model -----------------------------------------------------------------------------------------


def test_splits_alone_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, adversarial = evaluate_splits(image_network(), image_splits(), plan())
    assert adversarial == {}
    assert list(tmp_path.iterdir()) == []
    provenance = result.provenance
    assert (provenance.recipe, provenance.checkpoint) == (None, None)
    assert provenance.weights == models.fingerprint(image_network())
    assert provenance.data == image_splits().fingerprint
    assert (result.threat.norm, result.threat.eps, result.attacks) == ("Linf", 0.08, ("fgsm", "pgd-5"))


def test_events_name_the_split():
    events = []
    evaluate_splits(image_network(), image_splits(), plan(), progress=events.append)
    assert {event.phase for event in events} == {"test fgsm", "test pgd-5", "train fgsm", "train pgd-5"}


@pytest.mark.usefixtures("without_flags")
@pytest.mark.parametrize("attack", [evaluate_run, partial(attack_run, shard=Shard(0, 1))])
def test_events_of_other_checkpoints_name_them(tmp_path, attack):
    splits, epoch, events = blob_splits(), Checkpoint("epoch", 1), []
    asked = plan(checkpoint="every", attacks=["fgsm"])
    attack(run_of(splits, tmp_path, [BEST, LAST, epoch]), asked, splits=splits, progress=events.append)
    wanted = [f"{one}{split} fgsm" for one in ("epoch-0001 ", "last ", "") for split in ("test", "train")]
    assert list(dict.fromkeys(event.phase for event in events)) == wanted
    reached = Reached()
    assert all(reached.further(event) for event in events), "a run that is lost here has got further"


def test_any_model_into_a_folder(tmp_path):
    asked = plan(save_adversarial=True)
    made = evaluate_model(image_network(), image_splits(), asked, tmp_path)
    assert Run(tmp_path).evaluation() == made
    assert not (tmp_path / "evaluation.state").exists()
    saved = load_file(tmp_path / "adversarial.safetensors")
    masks = load_file(tmp_path / "evaluation.safetensors")
    for split in ("train", "test"):
        broken = masks[f"{split}/clean"] & ~masks[f"{split}/robust"]
        assert torch.equal(saved[f"{split}/index"], masks[f"{split}/index"][broken])
        wrong = image_network()(saved[f"{split}/x_adv"]).argmax(1) != saved[f"{split}/labels"]
        assert wrong.all()
    before = stamps(tmp_path)
    assert evaluate_model(image_network(), image_splits(), asked, tmp_path) == made
    assert stamps(tmp_path) == before
    with pytest.raises(StateError, match="another model"):
        evaluate_model(image_network(3), image_splits(), asked, tmp_path)
    with pytest.raises(StateError, match="another plan"):
        evaluate_model(image_network(), image_splits(), plan(), tmp_path)
    other = replace(image_splits(), train=image_splits().test)
    with pytest.raises(StateError, match="another data"):
        evaluate_model(image_network(), other, asked, tmp_path)


@pytest.mark.parametrize("name", ["recipe.json", "run.json"])
def test_an_evaluation_of_another_model_does_not_become_that_of_a_run(tmp_path, name):
    run = run_of(image_splits(), tmp_path)
    for other in {"recipe.json", "run.json"} - {name}:
        (tmp_path / other).unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StateError, match=f"{name}: belongs to a run, .*; choose another --out"):
        evaluate_model(image_network(), image_splits(), plan(), run.folder)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_evaluation_of_another_model_is_not_read_as_that_of_a_run(tmp_path):
    """As where training began in the folder of an evaluation."""
    run = run_of(image_splits(), tmp_path / "run")
    made = evaluate_model(image_network(), image_splits(), plan(), tmp_path / "other")
    run.write("evaluation", made)
    with pytest.raises(StateError, match=r"evaluation.json: found a result of a model without a recipe"):
        run.evaluation()


def test_a_second_writer_is_refused(tmp_path):
    with locks.locked(tmp_path), pytest.raises(LockedError):
        evaluate_model(image_network(), image_splits(), plan(), tmp_path)
