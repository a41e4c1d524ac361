"""Pseudo-labels of unlabeled images, and the batches that mix them with labelled ones."""

from dataclasses import replace

import pytest
import torch

import robustlens as rl
from helpers.training_runs import RST, assert_same_bits, recipe, weights_of
from robustlens.errors import ConfigError
from robustlens.results import PseudoLabelRecord, Run
from robustlens.results.array_files import ArrayFile
from robustlens.training import state
from robustlens.training.pseudo_labels import batch_order, teacher_recipe


def test_a_standard_network_labels_the_unlabeled_images_and_batches_mix_both(tmp_path, partly_labelled):
    run = rl.train(recipe(**RST), tmp_path / "run", splits=partly_labelled)
    teacher = Run(run.folder / "teacher")
    assert teacher.recipe.objective == "standard"
    network = rl.models.load(str(teacher.folder), checkpoint="best")
    with torch.no_grad():
        predicted = network(partly_labelled.unlabeled.x()).argmax(1)
    arrays = ArrayFile(run.folder / "pseudo_labels.safetensors")
    assert arrays["label"].tolist() == predicted.tolist()
    assert arrays["index"].tolist() == partly_labelled.unlabeled.index.tolist()
    right = float((predicted == partly_labelled.unlabeled.labels).double().mean())
    assert run.record.pseudo_labels == PseudoLabelRecord(100, right)
    assert right > 0.4  # chance is 1/3


def test_the_teacher_is_the_network_with_the_most_right_validation_images(tmp_path, partly_labelled):
    """Not the one that is most robust at some radius, which is one of the first of standard training."""
    run = rl.train(recipe(**RST), tmp_path / "run", splits=partly_labelled)
    teacher = Run(run.folder / "teacher")
    assert (teacher.recipe.threat.norm, teacher.recipe.threat.eps) == (run.recipe.threat.norm, 0.0)
    epochs = teacher.metrics()
    assert len(epochs) > 1
    assert all(epoch.validation.robust == epoch.validation.clean for epoch in epochs)
    most = max(epoch.validation.clean for epoch in epochs)
    assert epochs[teacher.record.best_epoch - 1].validation.clean == most


def test_the_teacher_trains_as_its_student_is_told_to():
    told = {"sync_batch_norm": True, "compile": True, "fast": True, "precision": "bf16-mixed", "seed": 3}
    teacher = teacher_recipe(recipe(**RST, **told))
    assert {name: getattr(teacher, name) for name in told} == told


def test_true_labels_of_the_pool_are_never_trained_on(tmp_path, partly_labelled):
    pool = partly_labelled.unlabeled
    lying = replace(partly_labelled, unlabeled=replace(pool, labels=(pool.labels + 1) % 3))
    one, other = (
        rl.train(recipe(**RST), tmp_path / name, splits=data)
        for name, data in (("one", partly_labelled), ("other", lying))
    )
    assert_same_bits(weights_of(one), weights_of(other))


def test_a_teacher_that_is_killed_inside_an_epoch_left_the_state_asked_for(tmp_path, partly_labelled):
    def death(event):
        if event.phase == "teacher train" and event.done == 3:
            raise OSError("the machine dies")

    asked, folder = recipe(**RST), tmp_path / "run"
    with pytest.raises(OSError, match="the machine dies"):
        rl.train(asked, folder, splits=partly_labelled, progress=death, checkpoint_minutes=0)
    assert (folder / "teacher" / state.STEP).exists()


def test_each_batch_holds_its_share_and_each_epoch_every_labelled_image_once():
    asked = recipe(**RST, optimizer={"batch_size": 10})
    batches = batch_order(asked, 52)(torch.Generator().manual_seed(0))
    assert [len(rows) for rows in batches] == [10] * 10
    assert all(int((rows < 52).sum()) == 5 for rows in batches)
    own = torch.cat(batches)[torch.cat(batches) < 52]
    assert len(own.unique()) == len(own) == 50  # the last incomplete batch is dropped
    others = torch.cat(batches)[torch.cat(batches) >= 52]
    assert others.max() < 152
    assert len(others.unique()) == 50
    with pytest.raises(ConfigError, match=r"batches of 5 of 3 labelled and 5 of 100 unlabeled"):
        batch_order(asked, 3)


@pytest.mark.parametrize(
    ("images", "processes", "said"),
    [
        (64, 2, None),
        (17, 2, None),  # the last image is dropped, as by one process
        (14, 2, None),
        (15, 2, "one batch of all 15 training images for 2 processes, .*; lower it to 14 or start fewer"),
        (1, 2, "one batch of all 1 training images for 2 processes, .*number; start fewer processes"),
        (64, 3, "found 16 for 3 processes, expected a multiple of their number"),
    ],
)
def test_processes_share_each_batch_equally_or_are_refused(images, processes, said):
    asked = recipe(optimizer={"batch_size": 16})
    if said is None:
        batches = batch_order(asked, images, processes)(torch.Generator().manual_seed(0))
        assert {len(rows) % processes for rows in batches} == {0}
        return
    with pytest.raises(ConfigError, match=said) as caught:
        batch_order(asked, images, processes)
    batch_order(recipe(**RST, optimizer={"batch_size": 8}), 5, 2)  # others fill the batch up
    assert "\n" not in str(caught.value)
