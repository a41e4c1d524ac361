"""Doubts about a data set that no error is worth: classes that test lacks, images in train and test alike."""

import torch

import robustlens as rl
from helpers.evaluated_models import image_network, plan
from robustlens.data import from_tensors, sanity_warnings
from robustlens.evaluation import evaluate_splits


def splits(train_labels, test_labels, copies=0):
    pixels = torch.randint(0, 256, (len(train_labels) + len(test_labels), 1, 3, 4)).to(torch.uint8)
    train, test = pixels[: len(train_labels)], pixels[len(train_labels) :]
    test[:copies] = train[:copies]
    return from_tensors(
        train,
        torch.tensor(train_labels),
        test,
        torch.tensor(test_labels),
        classes=tuple("abcd"),
        validation=0.25,
    )


def test_a_sound_data_set_has_none():
    assert sanity_warnings(splits([0, 1, 2, 3] * 5, [0, 1, 2, 3])) == ()


def test_classes_that_the_test_images_lack_and_images_that_training_saw_are_counted():
    given = splits([0, 1, 2, 3] * 5, [0, 1, 1], copies=2)  # one of the copies may be a validation image
    absent, copied = sanity_warnings(given)
    assert absent == "the test images show none of 2 of 4 classes: c, d"
    assert copied == "2 of 3 test images stand among the training images, too"


def test_training_says_so_before_the_first_epoch(tmp_path, caplog):
    given = splits([0, 1, 2, 3] * 5, [0, 1, 1], copies=2)
    recipe = {"model": {"name": "helpers.watching:network"}, "objective": "standard"}
    recipe |= {"optimizer": {"epochs": 1, "batch_size": 4}, "monitor": {"examples": 4, "steps": 1}}
    rl.train(recipe | {"data": {"name": given.name}}, tmp_path / "run", splits=given)
    assert [record.getMessage() for record in caplog.records] == [
        f"data: {said}" for said in sanity_warnings(given)
    ]


def test_the_evaluation_says_so():
    given = splits([0, 1, 2, 3] * 5, [0, 1, 1], copies=2)
    result, _ = evaluate_splits(image_network(), given, plan(attacks=["fgsm"]))
    assert result.splits["test"].notes[:2] == sanity_warnings(given)
    assert "4 outputs, and the labels show 2 of these classes" in result.splits["test"].notes[2]
    assert result.splits["train"].notes == ()
