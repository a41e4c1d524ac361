"""Training images: the same bits on every way to the device, and each rank's own rows alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.data_files import toy_images, toy_labels, toy_splits
from helpers.training_runs import recipe, weights_of
from robustlens import cli, data, train
from robustlens.data import PackedImages
from robustlens.errors import ConfigError, DataError
from robustlens.results import Run
from robustlens.training.images import TrainingImages
from robustlens.training.step import TrainingStep

CPU = torch.device("cpu")


@pytest.fixture
def packed(tmp_path) -> data.Splits:
    arrays = {"x_train": toy_images(60, (3, 10, 8)), "y_train": toy_labels(60, 3)}
    arrays |= {"x_test": toy_images(9, (3, 10, 8), seed=1), "y_test": toy_labels(9, 3)}
    np.savez(str(tmp_path / "toy.npz"), allow_pickle=False, **arrays)
    data.pack(f"npz:{tmp_path / 'toy.npz'}", tmp_path / "pack", shard_bytes=2000)
    return data.load(f"packed:{tmp_path / 'pack'}")


@pytest.mark.parametrize("resident", [True, False])
def test_images_on_the_device_have_the_bits_of_the_split(packed, resident):
    for split in (packed.train, replace(packed.train, images=packed.train.images[:])):
        images, rows = TrainingImages(split, CPU, resident), torch.tensor([7, 7, 0, 31])
        assert torch.equal(images.floats(images.pixels(rows)), split.x(rows))


def test_every_byte_becomes_the_float_that_the_cpu_makes():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    split = data.Split(every, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    images = TrainingImages(split, CPU, resident=True)
    floats = images.floats(every).flatten()
    expected = np.arange(256).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(floats.numpy().view(np.int32), expected.view(np.int32))


def test_rows_that_were_announced_are_read_ahead_and_others_at_once(packed, monkeypatch):
    images = TrainingImages(packed.train, CPU)
    threads: list[str] = []
    own = PackedImages.__getitem__

    def watched(self, rows):
        import threading

        threads.append(threading.current_thread().name.partition("_")[0])
        return own(self, rows)

    monkeypatch.setattr(PackedImages, "__getitem__", watched)
    first, second, third = torch.arange(5), torch.arange(5, 9), torch.arange(2)
    images.announce(second)
    assert torch.equal(images.pixels(second), own(packed.train.images, second))
    images.announce(third)
    assert torch.equal(images.pixels(first), own(packed.train.images, first))  # after a stop, say
    images.announce(None)
    images.pixels(third)
    assert images._thread is not None
    images._thread.shutdown(wait=True)
    assert sorted(threads) == sorted(["images", "images", "MainThread", "MainThread"])


def test_damage_that_the_thread_meets_reaches_the_step(packed):
    shard = next(path for path in packed.train.images._shards.paths)
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    images, rows = TrainingImages(packed.train, CPU), torch.nonzero(packed.train.index == 0)[:, 0]
    images.announce(rows)
    with pytest.raises(DataError, match="image 0 is damaged"):
        images.pixels(rows)


# -- ranks ------------------------------------------------------------------------------------------


def step_of(rank: int, ranks: int, splits: data.Splits, **changes) -> TrainingStep:
    """A step as one of several processes would have it, as far as its batch is concerned."""
    made = TrainingStep.__new__(TrainingStep)
    made.recipe = recipe(**changes)
    made.fabric = SimpleNamespace(device=CPU, global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    made.num_classes, made.following = 3, None
    made.augment = data.augment.get(made.recipe.data.augment, splits.train.crop)
    made.use(splits.train)
    return made


def draws(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize(
    "changes", [{"augment": "crop-flip-cutout"}, {"augment": "resized-crop-flip"}, {"mixup": 0.4}]
)
def test_the_shares_of_the_ranks_make_up_the_batch_of_one(packed, changes):
    mixup = changes.pop("mixup", None)
    values = {"data": {"name": "arrays", "augment": "none", **changes}, "mixup": mixup}
    rows = torch.tensor([50, 3, 17, 8, 29, 11, 40, 2])
    x, y = step_of(0, 1, packed, **values)._batch(rows, draws)
    for rank in range(4):
        own_x, own_y = step_of(rank, 4, packed, **values)._batch(rows, draws)
        assert torch.equal(own_x, x[rank::4])
        assert torch.equal(own_y, y[rank::4])


def test_a_rank_reads_its_own_rows_alone_unless_a_batch_is_drawn_together(packed, monkeypatch):
    read: list[int] = []
    own = TrainingImages._read
    monkeypatch.setattr(
        TrainingImages, "_read", lambda self, rows: read.extend(rows.tolist()) or own(self, rows)
    )
    rows, following = torch.arange(8), torch.arange(20, 28)
    step = step_of(1, 4, packed, data={"name": "arrays", "augment": "flip"})
    step.following = following
    step._batch(rows, draws)
    step.following = None
    step._batch(following, draws)
    assert sorted(read) == [1, 5, 21, 25]
    read.clear()
    step_of(1, 4, packed, mixup=0.4)._batch(rows, draws)
    assert sorted(read) == list(range(8))

    def of_the_users(x, generator=None):
        return x + torch.rand(len(x), 1, 1, 1, generator=generator)

    step.augment = of_the_users
    read.clear()
    step._batch(rows, draws)
    assert sorted(read) == list(range(8))


# -- crops ------------------------------------------------------------------------------------------


def test_a_cropped_set_trains_on_windows_and_is_measured_in_the_middle(packed, tmp_path):
    folder = packed.train.images._shards.paths[0].parent
    cropped = data.load(f"packed:{folder}?crop=6")
    step = step_of(0, 1, cropped, data={"name": "arrays", "augment": "resized-crop-flip"})
    rows = torch.arange(4)
    assert step._batch(rows, draws)[0].shape == (4, 3, 6, 6)
    plain = step_of(0, 1, cropped, data={"name": "arrays", "augment": "none"})
    assert torch.equal(plain._batch(rows, draws)[0], cropped.train.x(rows))
    run = train(
        recipe(
            model={"name": "small-cnn", "options": {"width": 2, "hidden": 4}},
            data={"name": f"packed:{folder}?crop=8", "augment": "resized-crop-flip"},
            optimizer={"batch_size": 8, "epochs": 1},
        ),
        tmp_path / "run",
        splits=data.load(f"packed:{folder}?crop=8"),
    )
    assert run.record.status == "trained"
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(run).values())


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"name": "fashion-mnist-10k"}, "data.name: found 'fashion-mnist-10k', but the splits are 'arrays'"),
        ({"train_limit": 20}, "data.train_limit: found 20, but the splits have 60 images"),
        ({"test_limit": 20}, "data.test_limit: found 20, but the splits have 12 images"),
    ],
)
def test_a_recipe_that_names_other_images_than_those_given_is_refused(named, said, tmp_path):
    """The page and the model card would speak of data that the network has never seen."""
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    splits = data.from_tensors(x, y, x[:12], y[:12])
    with pytest.raises(ConfigError, match=said):
        train(recipe(data=named), tmp_path / "run", splits=splits)
    assert not (tmp_path / "run").exists()
    data.check_spec(recipe(data={"train_limit": 60, "test_limit": 12}).data, splits)


def test_who_evaluates_a_run_of_images_in_memory_is_asked_for_them(tmp_path, capsys):
    run = Run(tmp_path / "run")
    run.bind(recipe())
    with pytest.raises(
        ConfigError, match=r"trained on images in memory \('arrays'\), so .* splits= .* --data"
    ):
        data.of_run(run)
    assert cli.run(["evaluate", str(run.folder)]) == 2
    assert "trained on images in memory" in capsys.readouterr().err


# -- augmentations of the user's ----------------------------------------------------------------------


@pytest.mark.parametrize("replays", [1, 2])
def test_what_an_augmentation_of_the_users_makes_is_looked_at_once_an_epoch(tmp_path, monkeypatch, replays):
    """A look waits for the device."""
    (tmp_path / "my_augmentation.py").write_text(
        "def same(): return lambda x, generator: x\ndef normalised(): return lambda x, generator: x - 0.5"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    looks, own = [], data.augment.check_range
    monkeypatch.setattr(data.augment, "check_range", lambda *given: looks.append(given) or own(*given))
    changes = {"attack": {"replays": replays, "steps": 1}, "optimizer": {"epochs": 2, "batch_size": 12}}
    changes["monitor"] = {"examples": 4, "steps": 1}
    values = {"name": "arrays", "augment": "my_augmentation:same"}
    train(recipe(data=values, **changes), tmp_path / "run", splits=toy_splits())
    assert len(looks) == 2
    values["augment"] = "my_augmentation:normalised"
    with pytest.raises(ConfigError, match=r"'my_augmentation:normalised': returned values -0\.5\.\."):
        train(recipe(data=values, **changes), tmp_path / "other", splits=toy_splits())
