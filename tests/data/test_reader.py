"""Packed images through every stage: the same numbers, bit for bit, as of the same images in memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_models import blobs
from helpers.training_runs import recipe, weights_of
from robustlens import data, evaluate, models, noise, reliability, train
from robustlens.config import EvaluationPlan, ExplanationPlan
from robustlens.data import Split, Splits
from robustlens.errors import DataError
from robustlens.evaluation import evaluate_splits
from robustlens.explain import explain
from robustlens.threat import ThreatModel


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Splits, Splits]:
    """The same images in memory and packed, in many shards."""
    folder = tmp_path_factory.mktemp("packed")
    x, y = blobs(80)
    x_test, y_test = blobs(20, seed=1)
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    np.savez(str(folder / "blobs.npz"), allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
    data.pack(f"npz:{folder / 'blobs.npz'}", folder / "pack", shard_bytes=1000)
    names = (f"npz:{folder / 'blobs.npz'}", f"packed:{folder / 'pack'}")
    own, there = (data.load(name) for name in names)
    assert len(list((folder / "pack").glob("train-*.u8"))) > 3
    return own, there


@pytest.fixture(scope="module")
def network(pair, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp("run")
    return models.load(train(recipe(data={"name": pair[0].name}), folder, splits=pair[0]).folder)


@pytest.mark.parametrize("objective", ["at", "standard"])
def test_training_ends_with_the_same_bits(pair, tmp_path, objective):
    changes = {"objective": objective, "mixup": None}
    named = [recipe(data={"name": each.name, "augment": "crop-flip"}, **changes) for each in pair]
    runs = [train(named[i], tmp_path / str(i), splits=each) for i, each in enumerate(pair)]
    own, there = (weights_of(run) for run in runs)
    assert own.keys() == there.keys()
    assert all(torch.equal(own[key], there[key]) for key in own)
    numbers = [[(epoch.loss, epoch.train, epoch.validation) for epoch in run.metrics()] for run in runs]
    assert numbers[0] == numbers[1]


def test_evaluation_gives_the_same_masks_and_goes_on_after_a_stop(pair, network, tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "check", lambda *sample, **options: ())  # a minute
    plan = EvaluationPlan(
        threat={"norm": "Linf", "eps": 0.05},
        attacks=("fgsm", "pgd-5"),
        batch_size=16,
        save_adversarial=True,
        curve=(),
    )
    (own, own_images), (there, images) = (
        evaluate_splits(network, each, plan, state=tmp_path / str(i)) for i, each in enumerate(pair)
    )
    for name in ("test", "train"):
        mine, theirs = own.splits[name], there.splits[name]
        assert replace(theirs, arrays={}, seconds={}) == replace(mine, arrays={}, seconds={})
        for key in mine.arrays:
            np.testing.assert_array_equal(mine.arrays[key], theirs.arrays[key])
    assert own_images.keys() == images.keys()
    assert all(np.array_equal(own_images[key], images[key]) for key in images)
    again, _ = evaluate_splits(network, pair[1], plan, state=tmp_path / "1")
    assert again.splits["test"].robust == there.splits["test"].robust


def test_progress_is_bound_to_the_packed_images(pair, network, tmp_path):
    threat = ThreatModel("Linf", 0.05)
    test = pair[1].test
    evaluate(network, data.readable(test), test.labels, threat, ["fgsm"], flags=False, state=tmp_path)
    fewer = test.take(15)
    with pytest.raises(Exception, match="another selection of images"):
        evaluate(network, data.readable(fewer), fewer.labels, threat, ["fgsm"], flags=False, state=tmp_path)


@pytest.mark.parametrize("name", ["activations", "margins", "smoothness", "spectrum", "landscape"])
def test_every_measure_gives_the_same_numbers(pair, network, name):
    options = {
        "landscape": {"alphas": [0, 0.5], "examples": 10, "steps": 2},
    }
    plan = ExplanationPlan(
        threat={"norm": "Linf", "eps": 0.05},
        measures=(name,),
        examples=15,
        batch_size=6,
        options={key: value for key, value in options.items() if key == name},
    )
    own, there = (explain(network, each, plan)[name] for each in pair)
    np.testing.assert_equal(there.value, own.value)
    assert own.arrays.keys() == there.arrays.keys()
    for key, values in own.arrays.items():
        np.testing.assert_array_equal(there.arrays[key], values)


def test_no_stage_holds_more_than_a_batch_of_a_packed_split(pair, network, monkeypatch):
    """A packed data set may be a thousand times larger than memory: nothing may read it whole."""
    read: list[int] = []
    own = Split.pixels

    def watched(self: Split, rows=None):
        pixels = own(self, rows)
        read.append(len(pixels))
        return pixels

    monkeypatch.setattr(Split, "pixels", watched)
    train = pair[1].train
    evaluate(
        network,
        data.readable(train),
        train.labels,
        ThreatModel("Linf", 0.05),
        ["fgsm"],
        flags=False,
        batch_size=16,
    )
    assert 0 < max(read) <= 64 < len(train)  # a sample that the model is tried out on
    read.clear()
    measures = ("activations", "margins", "smoothness", "spectrum")
    explain(network, pair[1], ExplanationPlan(measures=measures, examples=20, batch_size=6))
    assert 0 < max(read) <= 6


def test_images_to_read_are_checked_before_the_first_pass(pair, network):
    test = pair[1].test
    with pytest.raises(DataError, match="expected those of the images that are read"):
        evaluate(network, data.readable(test), test.labels, ThreatModel("Linf", 0.1, (0.0, 0.5)))
    with pytest.raises(DataError, match="found 0 images"):
        evaluate(network, data.readable(test.take(0)), test.labels[:0], ThreatModel("Linf", 0.1))


def test_noise_of_many_large_images_is_made_in_parts_and_stays_the_same(monkeypatch):
    x = torch.rand(7, 3, 5, 4)
    keys = noise.keys(x, 3)
    drawn, normal = noise.uniform(keys, x), noise.normal(keys, x)
    for elements in (60, 150, 1):
        monkeypatch.setattr(noise, "_ELEMENTS", elements)
        assert torch.equal(noise.keys(x, 3), keys)
        assert torch.equal(noise.uniform(keys, x), drawn)
        assert torch.equal(noise.normal(keys, x), normal)
