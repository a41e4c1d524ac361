"""Packed data sets: the same images as their source, whatever stopped the packing, and damage by name."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data_files import refused, toy_images, toy_labels, write_idx
from robustlens import cli, data
from robustlens.data import packing, registry, resizing, shards
from robustlens.errors import ConfigError, StateError, StoppedError
from robustlens.progress import Event
from robustlens.results import array_files, files, pack_folder, verify

SHAPE = (3, 6, 5)
IMAGE = 90  # bytes


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "toy.npz"
    np.savez(
        path,
        x_train=toy_images(40, SHAPE),
        y_train=toy_labels(40, 4),
        x_test=toy_images(11, SHAPE, seed=1),
        y_test=toy_labels(11, 4),
    )
    return path


def packed(npz: Path, out: Path, shard_images: int = 7) -> Path:
    data.pack(f"npz:{npz}", out, shard_bytes=shard_images * IMAGE, threads=2)
    return out


@pytest.mark.parametrize(
    "options", [{}, {"train_limit": 20, "test_limit": 5, "unlabeled": 8, "validation": 0.25}]
)
def test_packed_images_are_those_of_their_source(npz, tmp_path, options):
    own = data.load(f"npz:{npz}", **options)
    there = data.load(f"packed:{packed(npz, tmp_path / 'pack')}", **options)
    assert there.classes == own.classes
    assert there.shape == own.shape
    for name in ("train", "validation", "test", "unlabeled"):
        mine, theirs = getattr(own, name), getattr(there, name)
        if mine is None:
            assert theirs is None
            continue
        assert theirs.is_packed
        assert torch.equal(mine.x(), theirs.x())
        assert torch.equal(mine.labels, theirs.labels)
        assert torch.equal(mine.index, theirs.index)
    rows = torch.tensor([5, 0, 5, 3])
    assert torch.equal(own.train.x(rows), there.train.x(rows))
    assert torch.equal(own.train.x(slice(2, 9)), there.train.x(slice(2, 9)))
    assert torch.equal(own.train.take(6, seed=3).x(), there.train.take(6, seed=3).x())
    assert data.channel_statistics(own.train.images) == data.channel_statistics(there.train.images)
    assert data.channel_statistics(own.test.images) == data.channel_statistics(there.test.images)
    assert data.sanity_warnings(own) == data.sanity_warnings(there)


def test_statistics_of_most_of_a_split_read_only_the_rest(npz, tmp_path, monkeypatch):
    there = data.load(f"packed:{packed(npz, tmp_path / 'pack')}", validation=0.1)
    read: list[int] = []
    own = shards.Shards.read
    monkeypatch.setattr(
        shards.Shards, "read", lambda self, places: read.extend(places.tolist()) or own(self, places)
    )
    data.channel_statistics(there.train.images)
    assert sorted(read) == sorted(there.validation.index.tolist())


def test_images_of_two_places_join_only_in_one_pack(npz, tmp_path):
    there = data.load(f"packed:{packed(npz, tmp_path / 'pack')}", train_limit=20, unlabeled=8)
    both = there.train.followed_by(there.unlabeled)
    assert torch.equal(both.x(), torch.cat([there.train.x(), there.unlabeled.x()]))
    refused("two sources cannot be joined", lambda: there.train.followed_by(there.test))
    refused("one kind", lambda: there.train.followed_by(data.load(f"npz:{npz}").train))


def test_the_fingerprint_is_of_the_pixels_and_not_of_the_shards(npz, tmp_path):
    prints = {
        data.load(f"packed:{packed(npz, tmp_path / str(size), size)}").fingerprint for size in (3, 7, 100)
    }
    assert len(prints) == 1
    with np.load(npz) as file:
        arrays = dict(file)
    arrays["x_train"][17, 0, 2, 2] ^= 1
    np.savez(npz, **arrays)
    assert data.load(f"packed:{packed(npz, tmp_path / 'other')}").fingerprint not in prints
    whole, middle = (data.load(f"packed:{tmp_path / '7'}{crop}") for crop in ("", "?crop=4"))
    assert whole.fingerprint != middle.fingerprint


def test_a_crop_shows_the_middle(npz, tmp_path):
    name = f"packed:{packed(npz, tmp_path / 'pack')}"
    whole, middle = data.load(name).test, data.load(f"{name}?crop=3").test
    assert middle.shape == (3, 3, 3)
    assert torch.equal(middle.x(), whole.x()[:, :, 1:4, 1:4])
    assert torch.equal(middle.take(5).x(), whole.take(5).x()[:, :, 1:4, 1:4])
    for wrong in ("?crop=6", "?crop=0", "?crop=x", "?size=3"):
        refused(r"crop=SIDE with a side of 1 to 5", lambda wrong=wrong: data.load(name + wrong), ConfigError)


def test_a_pack_of_a_crop_holds_the_crop(npz, tmp_path):
    cropped = f"packed:{packed(npz, tmp_path / 'whole')}?crop=4"
    record = data.pack(cropped, tmp_path / "middle", shard_bytes=7 * 48)
    assert record.shape == (3, 4, 4)
    made = data.load(f"packed:{tmp_path / 'middle'}")
    assert torch.equal(made.train.x(), data.load(cropped).train.x())
    data.pack(cropped, tmp_path / "resized", size=4)
    assert torch.equal(data.load(f"packed:{tmp_path / 'resized'}").test.x(), made.test.x())


def test_a_pack_of_a_crop_that_holds_whole_images_is_refused(npz, tmp_path, monkeypatch):
    """An older version left the crop out: with a size, only the pixels tell."""
    cropped = f"packed:{packed(npz, tmp_path / 'whole')}?crop=4"
    with monkeypatch.context() as older:
        older.setattr("robustlens.data.packed._crop", lambda query, record: None)
        data.pack(cropped, tmp_path / "older", size=4)
    refused("packed otherwise", lambda: data.pack(cropped, tmp_path / "older", size=4), StateError)


# -- folders of images of any size -----------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """JPEGs of several sizes, the first of each class grey."""
    for split, count in (("train", 6), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = toy_images(1, (20 + 3 * i, 33 - 2 * i, 3), seed=i)[0]
                image = Image.fromarray(pixels[:, :, 0] if i == 0 else pixels)
                image.save(folder / f"{i}.jpg")
    return tmp_path / "photos"


def test_a_folder_of_photos_is_resized_and_cropped_as_pillow_does(photos, tmp_path):
    record = data.pack(f"folder:{photos}", tmp_path / "pack", size=16, shard_bytes=4 * 768)
    assert record.shape == (3, 16, 16)
    assert record.splits["train"].per_class == (6, 6)
    splits = data.load(f"packed:{tmp_path / 'pack'}", validation=0)
    paths = sorted((photos / "train").rglob("*.jpg"))
    for path, pixels in zip(paths, splits.train.images[:], strict=True):
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = 16 / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.size[0] - 16) // 2, (image.size[1] - 16) // 2
        expected = np.asarray(image.crop((left, top, left + 16, top + 16))).transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels.numpy(), expected)
    counts = shards.histogram(splits.train.images[:])
    assert counts.tolist() == [list(channel) for channel in record.splits["train"].histogram]


def whole_strip(image, size):
    """The middle square as it was always made: from the whole image, enlarged or reduced."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    wanted = (round(width * scale), round(height * scale))
    large = np.asarray(picture.resize(wanted, Image.Resampling.BILINEAR)).reshape(*wanted[::-1], -1)
    top, left = ((side - size) // 2 for side in large.shape[:2])
    return large[top : top + size, left : left + size]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [7, 16, 64])
def test_only_images_that_would_become_endless_strips_have_other_pixels(size, channels, monkeypatch):
    for short in (1, 2, 5, 16, 33, 90):
        for ratio in (1, 1.37, 2, 7.9, 8.6, 16.3, 65):
            whole = toy_images(1, (short, round(ratio * short), channels), seed=short)[0]
            for image in (whole, whole.swapaxes(0, 1)):
                expected = whole_strip(image, size)
                assert np.array_equal(resizing.resized(image, size), expected)
                with monkeypatch.context() as small:
                    small.setattr(resizing, "LARGEST_ALONE", 1)
                    differences = resizing.resized(image, size).astype(int) - expected
                assert np.abs(differences).max() <= (ratio > 8)


def test_a_thin_image_is_not_enlarged_whole():
    image = np.arange(9_000_000, dtype=np.uint32).astype(np.uint8)[:, None, None]
    middle = resizing.resized(image, 224)
    assert middle.shape == (224, 224, 1)
    there = image[4_499_997:4_500_003, 0, 0]
    assert set(middle.flatten().tolist()) <= set(range(there.min(), there.max() + 1))
    assert resizing.resized(image.swapaxes(0, 1), 4096).shape == (4096, 4096, 1)


def test_photos_that_are_too_large_for_memory_are_resized_one_by_one(photos, tmp_path):
    big = photos / "train" / "dog" / "big.png"
    Image.new("L", (4097, 4097), 7).save(big)
    for split in ("train", "val"):  # by itself, as which of several bad files is met first depends on threads
        for label in ("cat", "dog"):
            (tmp_path / "large" / split / label).mkdir(parents=True)
            (tmp_path / "large" / split / label / "big.png").write_bytes(big.read_bytes())
    refused("big.png: image of 4097x4097 pixels", lambda: data.load(f"folder:{tmp_path / 'large'}"))
    data.pack(f"folder:{photos}", tmp_path / "pack", size=16)
    row = sorted((photos / "train").rglob("*.*")).index(big)
    image = data.load(f"packed:{tmp_path / 'pack'}", validation=0).train.images[torch.tensor([row])]
    assert image.unique().tolist() == [7]


def test_what_does_not_fit_is_refused_with_its_file(photos, tmp_path):
    refused("give --size", lambda: data.pack(f"folder:{photos}", tmp_path / "a"))
    refused("has colours", lambda: data.pack(f"folder:{photos}", tmp_path / "b", size=16, channels=1))
    none = {"name": f"folder:{photos}", "out": tmp_path / "c", "threads": 0}
    refused("threads: found 0, expected at least 1", lambda: data.pack(**none), ConfigError)
    refused("expected 1 to 4096", lambda: data.pack(f"folder:{photos}", tmp_path / "c", size=0), ConfigError)
    bad = photos / "train" / "dog" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    refused("dog/3.jpg: cannot be read", lambda: data.pack(f"folder:{photos}", tmp_path / "d", size=16))


# -- stops ------------------------------------------------------------------------------------------


def test_a_stopped_pack_goes_on_and_ends_with_the_same_bytes(npz, tmp_path, monkeypatch):
    undisturbed = packed(npz, tmp_path / "undisturbed")

    def stop(event: Event) -> None:
        if event.done >= 20:
            raise StoppedError("stopped")

    out = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        data.pack(f"npz:{npz}", out, shard_bytes=7 * IMAGE, threads=1, progress=stop)
    assert not (out / "manifest.json").exists()
    refused("holds no manifest", lambda: data.load(f"packed:{out}"))
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.u8")}
    assert 3 <= len(finished) < 8
    (out / ".train-00004.u8.abcdefgh.tmp").write_bytes(b"what a kill left")
    packed(npz, out)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    names = {path.name for path in undisturbed.iterdir()} - {"lock", "lease"}
    assert {path.name for path in out.iterdir()} - {"lock", "lease"} == names
    assert all((out / name).read_bytes() == (undisturbed / name).read_bytes() for name in names)


def test_a_folder_takes_one_source(npz, tmp_path, monkeypatch):
    out = packed(npz, tmp_path / "pack")
    monkeypatch.setattr(packing, "_pack_shards", None)  # a second call makes nothing
    assert packed(npz, out) == out
    monkeypatch.undo()
    refused("packed otherwise", lambda: packed(npz, out, 3), StateError)
    (out / "manifest.json").unlink()
    (out / "train-00000.safetensors").write_bytes((out / "train.safetensors").read_bytes())
    refused("belongs to another source", lambda: packed(npz, out), StateError)


# -- sources that change ----------------------------------------------------------------------------


def grey_folder(root: Path) -> Path:
    for split, count in (("train", 5), ("test", 2)):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (4, 4), 10 * i).save(root / split / label / f"{i}.png")
    return root


def replace_an_image(root: Path) -> None:
    """The same labels, number of files and size, another time."""
    path = root / "train" / "dog" / "3.png"
    Image.new("L", (4, 4), 31).save(path)
    os.utime(path, ns=(1, 1))


def rename_an_image(root: Path) -> None:
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "9.png")


CHANGES = [replace_an_image, rename_an_image]
CHANGED = "has changed since it was packed"


@pytest.mark.parametrize("change", CHANGES)
def test_a_pack_of_a_source_that_has_changed_since_is_refused(tmp_path, change):
    root = grey_folder(tmp_path / "images")
    record = data.pack(f"folder:{root}", tmp_path / "pack")
    assert data.pack(f"folder:{root}", tmp_path / "pack") == record
    change(root)
    refused(
        f"manifest.json: folder:.*images {CHANGED}.*; choose another folder or delete this one",
        lambda: data.pack(f"folder:{root}", tmp_path / "pack"),
        StateError,
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_stopped_pack_makes_anew_what_has_changed_since_and_nothing_else(tmp_path, change):
    root = grey_folder(tmp_path / "images")
    options = {"shard_bytes": 2 * 16, "threads": 1}

    def stop(event: Event) -> None:
        if event.done >= 10:
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        data.pack(f"folder:{root}", tmp_path / "pack", progress=stop, **options)
    shards_before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pack").glob("train*.u8")}
    assert len(shards_before) == 5
    change(root)
    data.pack(f"folder:{root}", tmp_path / "pack", **options)
    made, whole = (
        data.load(name, validation=0) for name in (f"packed:{tmp_path / 'pack'}", f"folder:{root}")
    )
    assert torch.equal(made.train.x(), whole.train.x())
    kept = [
        name for name, time in shards_before.items() if (tmp_path / "pack" / name).stat().st_mtime_ns == time
    ]
    assert len(kept) == {replace_an_image: 4, rename_an_image: 2}[change]


def test_a_source_that_changes_while_it_is_packed_is_not_sealed(tmp_path):
    root = grey_folder(tmp_path / "images")

    def change(event: Event) -> None:
        if event.done == event.total:
            replace_an_image(root)

    pack = partial(data.pack, f"folder:{root}", tmp_path / "pack")
    refused("has changed while it was packed; pack again", lambda: pack(progress=change), StateError)
    assert not (tmp_path / "pack" / "manifest.json").exists()
    pack()
    pixels = data.load(f"packed:{tmp_path / 'pack'}", validation=0).train.images[torch.tensor([8])]
    assert pixels.unique().tolist() == [31]


def older(out: Path) -> None:
    """The pack as a version wrote it that kept no fingerprint of its source."""
    manifest = files.read_json(out / "manifest.json", "pack")
    del manifest["fingerprint"]
    files.write_json(out / "manifest.json", manifest, "pack")


def test_a_pack_of_an_older_version_stays_as_it_is(npz, tmp_path):
    out = packed(npz, tmp_path / "pack")
    older(out)
    content = (out / "manifest.json").read_bytes()
    os.utime(npz, ns=(1, 1))
    assert data.pack(f"npz:{npz}", out, shard_bytes=7 * IMAGE).fingerprint is None
    assert (out / "manifest.json").read_bytes() == content
    assert data.load(f"packed:{out}").shape == SHAPE


def test_shards_that_an_older_version_finished_are_made_again(npz, tmp_path):
    undisturbed, out = packed(npz, tmp_path / "undisturbed"), packed(npz, tmp_path / "pack")
    identity = pack_folder.PackFolder(out).record.identity
    (out / "manifest.json").unlink()
    arrays = {"digests": np.zeros((7, 16), np.uint8), "histogram": np.zeros((3, 256), np.int64)}
    header = {"identity": identity, "rows": 7, "sha256": "0" * 64}
    array_files.write_arrays(out / "train-00000.safetensors", arrays, header)
    (out / "train-00000.u8").write_bytes(bytes(7 * IMAGE))
    packed(npz, out)
    for name in ("manifest.json", "train-00000.u8"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_every_reader_knows_its_source_again_and_notices_a_change(npz, tmp_path):
    root, idx = grey_folder(tmp_path / "images"), write_idx(tmp_path / "idx")
    one, other = (packed(npz, tmp_path / name, size) for name, size in (("one", 7), ("other", 3)))

    def fingerprints(name: str) -> list[str]:
        sources = registry.read(name, None)
        made = [source.fingerprint for source in (sources.train, sources.test)]
        return [fingerprint(torch.arange(4)) for fingerprint in made if fingerprint]

    for name, file in (
        (f"folder:{root}", root / "test" / "cat" / "1.png"),
        (f"npz:{npz}", npz),
        (f"idx:{idx}", idx / "train-images-idx3-ubyte.gz"),
    ):
        before = fingerprints(name)
        assert fingerprints(name) == before
        os.utime(file, ns=(1, 1))
        assert fingerprints(name) != before
    assert fingerprints(f"packed:{one}") == fingerprints(f"packed:{other}"), "of the pixels alone"
    with np.load(npz) as file:
        arrays = dict(file)
    arrays["x_test"][3, 0, 2, 2] ^= 1
    np.savez(npz, **arrays)
    changed = fingerprints(f"packed:{packed(npz, tmp_path / 'changed')}")
    assert [a == b for a, b in zip(changed, fingerprints(f"packed:{one}"), strict=True)] == [True, False]
    assert registry.read("fashion-mnist-10k", None).train.fingerprint is None


def test_a_file_that_is_gone_when_packing_begins_is_named(tmp_path):
    root = grey_folder(tmp_path / "images")
    source = registry.read(f"folder:{root}", None).train
    (root / "train" / "dog" / "3.png").unlink()
    refused("dog/3.png: cannot be read", lambda: source.fingerprint(torch.arange(10)))


# -- damage -----------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_when_its_image_is_first_read(npz, tmp_path):
    out = packed(npz, tmp_path / "pack")
    assert [check for check in verify(out) if check.problem] == []
    flip(out / "train-00001.u8", 2 * IMAGE + 5)
    splits = data.load(f"packed:{out}", validation=0)
    splits.train.x(slice(0, 9))
    refused("train-00001.u8: image 2 is damaged", lambda: splits.train.x(torch.tensor([3, 9])))
    broken = [check for check in verify(out) if check.problem]
    assert [check.path.name for check in broken] == ["train-00001.u8"]


def test_a_shard_that_is_cut_short_or_gone_is_named(npz, tmp_path):
    out = packed(npz, tmp_path / "pack")
    open_already = data.load(f"packed:{out}")
    shard = out / "test-00001.u8"
    shard.write_bytes(shard.read_bytes()[: IMAGE + 3])
    refused("test-00001.u8: found 93 bytes, expected 360", lambda: data.load(f"packed:{out}"))
    refused("test-00001.u8: ends in image 1", lambda: open_already.test.x())
    shard.unlink()
    refused("test-00001.u8: found no such file", lambda: data.load(f"packed:{out}"))
    refused("test-00001.u8: cannot be read", lambda: open_already.test.x())
    assert [check.path.name for check in verify(out) if check.problem] == ["test-00001.u8"]


@pytest.mark.parametrize("name", ["manifest.json", "train.safetensors"])
def test_damage_of_a_sealed_file_is_named(npz, tmp_path, name):
    out = packed(npz, tmp_path / "pack")
    flip(out / name, (out / name).stat().st_size // 2)
    refused(name, lambda: data.load(f"packed:{out}"))
    assert name in {check.path.name for check in verify(out) if check.problem}


# -- the command ------------------------------------------------------------------------------------


def test_the_command_packs_and_verify_reads_all(npz, tmp_path, capsys):
    out = tmp_path / "pack"
    assert cli.run(["data", "pack", f"npz:{npz}", str(out), "--size", "8", "--quiet"]) == 0
    assert "40 train, 11 test images of 3x8x8, 4 classes" in capsys.readouterr().out
    assert cli.run(["verify", str(out)]) == 0
    flip(out / "test-00000.u8", 0)
    assert cli.run(["verify", str(out)]) == 7
    assert cli.run(["data", "pack", "npz:/absent.npz", str(out)]) == 3
    assert cli.run(["data", "pack", "cifar11", str(out)]) == 2
