"""The data rooms: what is read is right, subsets are what they say, and bad data gets one clear line."""

import gzip
import hashlib
import importlib.util
import io
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustlens import data, noise
from robustlens.data import arrays, augment, embedded, hub, pixels, splits, tables
from robustlens.errors import ConfigError, DataError

REPOSITORY = Path(__file__).parents[1]
OFFICIAL = REPOSITORY.parent / "shared" / "data" / "fashion_mnist"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(),
    reason="the official IDX files are not beside this checkout (../shared/data/fashion_mnist)",
)


def refused(line: str, action: Callable[[], Any], kind: type[Exception] = DataError) -> None:
    """`action` fails with one line that matches the pattern."""
    with pytest.raises(kind, match=line) as caught:
        action()
    assert "\n" not in str(caught.value)


def toy_images(n: int, shape: tuple[int, ...] = (4, 4), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def toy_labels(n: int, classes: int = 2) -> np.ndarray:
    return (np.arange(n) % classes).astype(np.uint8)


def toy_splits(n: int = 40, classes: int = 4, **options: Any) -> splits.Splits:
    return data.from_tensors(
        toy_images(n),
        toy_labels(n, classes),
        toy_images(classes, seed=1),
        toy_labels(classes, classes),
        **options,
    )


def source_of(labels: list[int], channels: int = 1, size: int = 4) -> splits.Source:
    images = torch.from_numpy(toy_images(len(labels), (channels, size, size)))
    return splits.Source(torch.tensor(labels, dtype=torch.int64), images.__getitem__, "toy")


# ---------------------------------------- subsets


labels_strategy = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(
    lambda values: torch.tensor(values)
)


@settings(deadline=None)
@given(labels=labels_strategy, seed=st.integers(0, 2**31))
def test_every_prefix_of_the_order_holds_each_class_in_its_share(labels: torch.Tensor, seed: int) -> None:
    order = splits.stratified_order(labels, noise.generator_for(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    one_hot = torch.nn.functional.one_hot(labels[order], 5)
    share = one_hot.sum(0) / len(labels)
    ideal = torch.arange(1, len(labels) + 1)[:, None] * share.double()
    assert float((one_hot.cumsum(0) - ideal).abs().max()) < 1  # so rounded down or up, never further


@settings(deadline=None)
@given(
    labels=labels_strategy, seed=st.integers(0, 100), sizes=st.tuples(st.integers(0, 60), st.integers(0, 60))
)
def test_a_smaller_subset_lies_inside_a_larger_one(
    labels: torch.Tensor, seed: int, sizes: tuple[int, int]
) -> None:
    small, large = sorted(min(size, len(labels)) for size in sizes)
    whole = splits.Split(
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, torch.arange(len(labels))
    )
    inner, outer = whole.take(small, seed), whole.take(large, seed)
    assert len(inner) == small
    assert set(inner.index.tolist()) <= set(outer.index.tolist())
    assert inner.index.tolist() == sorted(inner.index.tolist())
    assert torch.equal(inner.labels, labels[inner.index])


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=60).filter(
        lambda values: set(values) == {0, 1, 2}
    ),
    share=st.floats(0, 0.7),
    seed=st.integers(0, 100),
)
def test_validation_and_training_are_disjoint_complete_and_stratified(
    labels: list[int], share: float, seed: int
) -> None:
    source = source_of(labels)
    made = splits.assemble(
        splits.Sources(source, source, ("a", "b", "c")), "toy", validation=share, seed=seed
    )
    kept, held = set(made.train.index.tolist()), set(made.validation.index.tolist())
    assert not kept & held
    assert kept | held == set(range(len(labels)))
    assert len(held) == (max(1, round(share * len(labels))) if share else 0)
    for label, total in Counter(labels).items():
        assert abs(int((made.validation.labels == label).sum()) - total * len(held) / len(labels)) < 1


def test_subsets_repeat_for_a_seed_differ_between_seeds_and_leave_global_randomness_alone() -> None:
    whole = toy_splits(200, validation=0).train
    state = torch.random.get_rng_state()
    assert torch.equal(whole.take(20, seed=3).index, whole.take(20, seed=3).index)
    assert not torch.equal(whole.take(20, seed=3).index, whole.take(20, seed=4).index)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_subset_keeps_images_labels_and_index_together() -> None:
    whole = toy_splits(40, validation=0).train
    part = whole.take(10)
    assert torch.equal(part.images, whole.images[part.index])
    assert torch.equal(part.labels, whole.labels[part.index])
    assert torch.equal(part.take(4).images, whole.images[part.take(4).index])


def test_the_training_limit_is_counted_before_validation_is_taken_out() -> None:
    made = toy_splits(100, train_limit=40, test_limit=2, validation=0.25)
    assert (len(made.train), len(made.validation), len(made.test)) == (30, 10, 2)


def test_training_subsets_are_nested_across_limits() -> None:
    def used(limit: int) -> set[int]:
        made = toy_splits(100, train_limit=limit, seed=5)
        return set(made.train.index.tolist()) | set(made.validation.index.tolist())

    assert used(20) < used(50) < used(100)


def test_only_the_chosen_rows_are_read() -> None:
    asked: list[int] = []
    source = source_of([0, 1] * 50)

    def read(rows: torch.Tensor) -> torch.Tensor:
        asked.extend(rows.tolist())
        return source.read(rows)

    watched = splits.Source(source.labels, read, "toy")
    splits.assemble(splits.Sources(watched, source, ("a", "b")), "toy", train_limit=10, validation=0.2)
    assert len(asked) == len(set(asked)) == 10


def test_no_validation_gives_an_empty_split_of_the_same_shape() -> None:
    made = toy_splits(validation=0)
    assert len(made.train) == 40
    assert made.validation.images.shape == (0, 1, 4, 4)
    assert len(made.validation.x()) == 0


@pytest.mark.parametrize("share", [1.0, 1000, -0.1, float("nan"), 0.999])
def test_a_validation_share_that_cannot_be_met_is_refused(share: float) -> None:
    refused(r"^data\.validation: found ", lambda: toy_splits(validation=share), ConfigError)


@pytest.mark.parametrize(
    "limits", [{"train_limit": 41}, {"test_limit": 5}, {"train_limit": 0}, {"test_limit": -1}]
)
def test_a_limit_that_cannot_be_met_is_refused_by_name(limits: dict[str, int]) -> None:
    refused(
        rf"^data\.{next(iter(limits))}: found {next(iter(limits.values()))}",
        lambda: toy_splits(**limits),
        ConfigError,
    )


def test_taking_more_than_there_is_is_refused() -> None:
    refused(
        r"found 41, expected at most the 40 images",
        lambda: toy_splits(validation=0).train.take(41),
        ConfigError,
    )


def test_x_is_the_pixels_over_255_in_float32() -> None:
    split = splits.Split(
        torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), torch.arange(4), torch.arange(4)
    )
    expected = (np.arange(256) / 255).astype(np.float32).reshape(4, 1, 8, 8)
    assert split.x().dtype == torch.float32
    assert np.array_equal(split.x().numpy(), expected)
    assert np.array_equal(split.x(torch.tensor([2, 0])).numpy(), expected[[2, 0]])
    assert np.array_equal(split.x(slice(1, 3)).numpy(), expected[1:3])


def test_grey_test_images_become_rgb_beside_rgb_training_images() -> None:
    grey, colour = source_of([0, 1, 0]), source_of([0, 1, 1], channels=3)
    made = splits.assemble(splits.Sources(colour, grey, ("a", "b")), "toy")
    assert made.shape == (3, 4, 4)
    assert torch.equal(made.test.images, grey.read(torch.arange(3)).expand(3, 3, 4, 4))


def test_train_and_test_images_of_two_sizes_are_refused() -> None:
    pair = splits.Sources(source_of([0, 1]), source_of([0, 1], size=5), ("a", "b"))
    refused(r"images are 4x4 and 5x5, expected one size", lambda: splits.assemble(pair, "toy"))


# ---------------------------------------- embedded


def test_the_embedded_images_are_balanced_and_complete() -> None:
    made = data.load("fashion-mnist-10k")
    assert (len(made.train), len(made.validation), len(made.test)) == (9000, 1000, 2000)
    assert made.train.labels.bincount().tolist() == [900] * 10
    assert made.validation.labels.bincount().tolist() == [100] * 10
    assert made.test.labels.bincount().tolist() == [200] * 10
    assert (made.shape, made.num_classes, made.classes[9]) == ((1, 28, 28), 10, "Ankle boot")


def test_the_embedded_file_is_small_licensed_and_loads_fast() -> None:
    file = Path(embedded.__file__).with_name(embedded.FILE)
    assert file.stat().st_size <= 8 * 2**20
    assert hashlib.sha256(file.read_bytes()).hexdigest() == embedded.SHA256
    licence = file.with_name("fashion_mnist_10k.LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "Zalando SE" in licence
    started = time.process_time()
    embedded.load()
    assert time.process_time() - started < 0.5


def test_a_damaged_embedded_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    refused(rf"{embedded.FILE}: sha256 .* reinstall", embedded.load)


@needs_official
def test_the_embedded_images_are_the_official_ones() -> None:
    official, mine = arrays.load_idx(OFFICIAL), embedded.load()
    for ours, theirs in ((mine.train, official.train), (mine.test, official.test)):
        split = ours.split(torch.arange(len(ours.labels)))
        assert torch.equal(split.images, theirs.read(split.index))
        assert torch.equal(split.labels, theirs.labels[split.index])


@needs_official
def test_the_build_script_gives_the_same_bytes() -> None:
    path = REPOSITORY / "tools" / "build_fashion_mnist_10k.py"
    spec = importlib.util.spec_from_file_location("build_fashion_mnist_10k", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert hashlib.sha256(script.build(OFFICIAL)).hexdigest() == embedded.SHA256


# ---------------------------------------- IDX


def idx_bytes(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def write_idx(folder: Path, mark: str = "-", packed: bool = True, classes: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, n, seed in (("train", 8, 0), ("t10k", 4, 1)):
        for kind, values in (("images-3", toy_images(n, seed=seed)), ("labels-1", toy_labels(n, classes))):
            name, dimensions = kind.split("-")
            content = idx_bytes(values)
            path = folder / f"{stem}-{name}{mark}idx{dimensions}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mark", ["-", "."])
def test_idx_files_are_read_under_all_their_usual_names(tmp_path: Path, mark: str, packed: bool) -> None:
    made = data.load(f"idx:{write_idx(tmp_path, mark, packed)}", validation=0)
    assert np.array_equal(made.train.images[:, 0], toy_images(8))
    assert np.array_equal(made.test.images[:, 0], toy_images(4, seed=1))
    assert made.train.labels.tolist() == [0, 1] * 4
    assert made.classes == ("0", "1")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def repack(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(change(gzip.decompress(content)))


IDX_DAMAGE = {
    "truncated gzip": ("train-images-idx3-ubyte.gz", cut, "cannot be read"),
    "no gzip": ("t10k-images-idx3-ubyte.gz", lambda _: b"<html>not found</html>", "cannot be read"),
    "flipped byte": (
        "t10k-images-idx3-ubyte.gz",
        lambda c: c[:40] + bytes([c[40] ^ 255]) + c[41:],
        "cannot be read",
    ),
    "truncated content": (
        "train-images-idx3-ubyte.gz",
        repack(cut),
        r"expected 8x4x4 = 128 as its header says",
    ),
    "too much content": (
        "train-labels-idx1-ubyte.gz",
        repack(lambda c: c + b"\0"),
        r"holds 9 bytes of labels",
    ),
    "wrong magic": (
        "t10k-labels-idx1-ubyte.gz",
        repack(lambda c: b"\0\0\x0d\1" + c[4:]),
        r"starts with 00000d01",
    ),
    "images for labels": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx_bytes(toy_images(4))),
        "00000803",
    ),
    "empty": ("train-labels-idx1-ubyte.gz", lambda _: gzip.compress(b""), "starts with nothing"),
    "no rows": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx_bytes(toy_labels(0))),
        "holds 0 labels",
    ),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: str) -> None:
    name, change, line = IDX_DAMAGE[damage]
    path = write_idx(tmp_path) / name
    path.write_bytes(change(path.read_bytes()))
    refused(rf"{re.escape(str(path))}.*{line}", lambda: data.load(f"idx:{tmp_path}"))


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(r"no t10k-labels-idx1-ubyte\.gz", lambda: data.load(f"idx:{tmp_path}"))
    refused(r"no train-images-idx3-ubyte\.gz", lambda: data.load(f"idx:{tmp_path / 'nowhere'}"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(toy_images(0))))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(toy_labels(0))))
    refused(r"t10k-labels-idx1-ubyte\.gz: holds no images", lambda: data.load(f"idx:{folder}"))


@needs_official
def test_corrupted_copies_of_the_official_files_are_named(tmp_path: Path) -> None:
    for path in OFFICIAL.glob("t10k-*"):
        for stem in ("train", "t10k"):
            shutil.copyfile(path, tmp_path / path.name.replace("t10k", stem))
    assert len(data.load("fashion_mnist", data_dir=tmp_path, test_limit=100).train) == 9000
    victim = tmp_path / "t10k-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:1_000_000])
    refused(
        rf"{re.escape(str(victim))}: cannot be read", lambda: data.load("fashion_mnist", data_dir=tmp_path)
    )


# ---------------------------------------- arrays and npz


def load_arrays(**changed: Any) -> splits.Splits:
    given = {
        "x_train": toy_images(6),
        "y_train": toy_labels(6),
        "x_test": toy_images(2),
        "y_test": toy_labels(2),
    }
    return data.from_tensors(**(given | changed), validation=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_channel_layouts_and_both_kinds_of_array_give_the_same_images(channels: int) -> None:
    first = toy_images(6, (channels, 4, 5))
    test = toy_images(2, (channels, 4, 5))
    layouts = (first, np.moveaxis(first, 1, 3), torch.from_numpy(first), torch.from_numpy(first).int())
    for layout in layouts:
        made = load_arrays(x_train=layout, x_test=test)
        assert np.array_equal(made.train.images, first)
        assert made.train.images.is_contiguous()


def test_floats_in_0_1_become_the_nearest_byte() -> None:
    exact = np.arange(256, dtype=np.float64).reshape(1, 16, 16).repeat(6, 0) / 255
    for kind in (np.float64, np.float32, np.float16):
        made = load_arrays(x_train=exact.astype(kind), x_test=exact[:2])
        assert made.train.images[0].flatten().tolist() == list(range(256))
    near = np.array([0.0, 0.4, 0.6, 254.6, 255.0]).reshape(1, 1, 5).repeat(6, 0) / 255
    assert load_arrays(x_train=near, x_test=near[:2]).train.images[0].flatten().tolist() == [
        0,
        0,
        1,
        255,
        255,
    ]


def test_the_splits_do_not_share_memory_with_the_arrays() -> None:
    images = toy_images(6)
    made = load_arrays(x_train=images)
    before = made.train.images.clone()
    images[:] = 0
    assert torch.equal(made.train.images, before)


def test_keras_labels_of_shape_n_1_and_named_classes_are_taken() -> None:
    made = load_arrays(y_train=toy_labels(6)[:, None].astype(np.int32), classes=("cat", "dog", "never seen"))
    assert made.train.labels.tolist() == [0, 1] * 3
    assert made.num_classes == 3


def with_value(value: float) -> np.ndarray:
    images = np.zeros((6, 4, 4), dtype=np.float32)
    images[3, 2, 1] = value
    return images


BAD_ARRAYS = {
    "NaN": ({"x_train": with_value(float("nan"))}, r"arrays: x_train: holds NaN"),
    "infinity": ({"x_train": with_value(float("inf"))}, r"x_train: holds NaN or infinity"),
    "floats to 255": (
        {"x_train": with_value(255.0)},
        r"x_train: pixels run 0\.\.255, expected floats in \[0, 1\]",
    ),
    "normalised": ({"x_train": with_value(-0.5)}, r"pixels run -0\.5\.\.0"),
    "too large": (
        {"x_test": np.full((2, 4, 4), 256)},
        r"x_test: pixels run 0\.\.256, expected integers in 0\.\.255",
    ),
    "one dimension": ({"x_train": np.zeros(6)}, r"x_train: shape \(6,\), expected"),
    "two channels": ({"x_train": np.zeros((6, 2, 4, 4))}, r"shape \(6, 2, 4, 4\), expected 1 or 3 channels"),
    "no pixels": ({"x_train": np.zeros((6, 0, 4))}, r"shape \(6, 0, 4\)"),
    "booleans": ({"x_train": np.zeros((6, 4, 4), dtype=bool)}, r"x_train: bool, expected integers or floats"),
    "objects": ({"x_train": np.array([None] * 6)}, r"x_train: object, expected integers or floats"),
    "ragged": ({"x_train": [[1, 2], [3]]}, r"x_train: is no array"),
    "another count": ({"y_train": toy_labels(5)}, r"x_train: 6 images, but arrays: y_train holds 5 labels"),
    "float labels": ({"y_train": np.zeros(6)}, r"y_train: float64, expected integer labels"),
    "one-hot labels": ({"y_train": np.eye(6, dtype=int)}, r"y_train: shape \(6, 6\), expected one label"),
    "labels from 1": ({"y_train": toy_labels(6) + 1}, r"y_train: labels run 1\.\.2 .* renumber them from 0"),
    "a gap": ({"y_train": np.array([0, 0, 1, 1, 255, 255])}, r"labels run 0\.\.255 with 3 different values"),
    "negative labels": ({"y_test": np.array([-1, 0])}, r"y_test: labels run -1\.\.0, expected 0\.\.1"),
    "label too large": (
        {"y_test": np.array([0, 2])},
        r"y_test: labels run 0\.\.2, expected 0\.\.1 \(2 classes\)",
    ),
    "empty": ({"x_test": toy_images(0), "y_test": toy_labels(0)}, r"y_test: holds no images"),
    "sizes": ({"x_test": toy_images(2, (5, 5))}, r"images are 4x4 and 5x5"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str) -> None:
    changed, line = BAD_ARRAYS[case]
    refused(line, lambda: load_arrays(**changed))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_npz(path: Path, **changed: Any) -> Path:
    given = {
        "x_train": toy_images(6),
        "y_train": toy_labels(6),
        "x_test": toy_images(2),
        "y_test": toy_labels(2),
    }
    np.savez_compressed(path, **{key: value for key, value in (given | changed).items() if value is not None})
    return path


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    made = data.load(f"npz:{write_npz(tmp_path / 'toy.npz')}", validation=0)
    assert np.array_equal(made.train.images[:, 0], toy_images(6))
    assert made.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda path: path.write_bytes(cut(path.read_bytes())), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.write_bytes(b""), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.write_bytes(npy(toy_images(2))), r"toy\.npz: is no complete \.npz file"),
        (lambda path: path.unlink(), r"toy\.npz: no such file"),
        (
            lambda path: write_npz(path, x_test=None, y_test=None),
            r"lacks x_test, y_test, found x_train, y_train",
        ),
        (lambda path: write_npz(path, y_test=np.array([{}, {}])), r"holds Python objects"),
        (lambda path: write_npz(path, x_train=with_value(float("nan"))), r"toy\.npz: x_train: holds NaN"),
    ],
)
def test_a_bad_npz_file_is_named(tmp_path: Path, spoil: Callable[[Path], Any], line: str) -> None:
    path = write_npz(tmp_path / "toy.npz")
    spoil(path)
    refused(line, lambda: data.load(f"npz:{path}"))


# ---------------------------------------- image folders


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def grey(value: int, size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new("L", size, value)


def write_folder(root: Path, test: str = "test") -> Path:
    for split, per_class in (("train", 3), (test, 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                (folder / f"{i}.png").write_bytes(png(grey(100 * label + i)))
    return root


@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_an_image_folder_is_read_in_order(tmp_path: Path, test: str) -> None:
    root = write_folder(tmp_path, test)
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._0.png").write_text("what macOS leaves behind")
    made = data.load(f"folder:{root}", validation=0)
    assert made.classes == ("cat", "dog")
    assert made.shape == (1, 3, 4)
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert made.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_palette_and_alpha_images_become_rgb_and_grey_ones_join_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    red = Image.new("RGBA", (4, 3), (200, 10, 20, 128))
    palette = Image.new("RGB", (4, 3), (1, 2, 3)).quantize(4)
    palette.info["transparency"] = bytes([0, 255])
    (root / "train" / "cat" / "1.png").write_bytes(png(red))
    (root / "train" / "cat" / "2.png").write_bytes(png(palette))
    made = data.load(f"folder:{root}", validation=0)
    assert made.train.images[:4, :, 0, 0].tolist() == [[0, 0, 0], [200, 10, 20], [1, 2, 3], [100, 100, 100]]
    assert made.test.images.shape == (2, 3, 3, 4)


def test_grey_with_alpha_and_bilevel_images_stay_grey() -> None:
    files = [png(Image.new("LA", (2, 2), (7, 9))), png(Image.new("1", (2, 2), 1)), png(grey(5, (2, 2)))]
    assert pixels.decode(files, 3, str).tolist() == [[[[value] * 2] * 2] for value in (7, 255, 5)]


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable": (
        lambda root: (root / "train/dog/1.png").write_bytes(b"nonsense"),
        r"dog/1\.png: cannot be read",
    ),
    "truncated": (
        lambda root: (root / "train/dog/1.png").write_bytes(png(grey(0, (64, 64)))[:60]),
        r"dog/1\.png: cannot be read",
    ),
    "another size": (
        lambda root: (root / "train/dog/1.png").write_bytes(png(grey(0, (5, 3)))),
        r"dog/1\.png: image of 3x5 pixels, expected 3x4 as in .*cat/0\.png",
    ),
    "16 bits": (
        lambda root: Image.new("I;16", (4, 3)).save(root / "train/dog/1.png"),
        r"dog/1\.png: image mode I;16, expected 8 bits",
    ),
    "no test": (lambda root: shutil.rmtree(root / "test"), r"no folder test or val in it"),
    "no train": (lambda root: shutil.rmtree(root / "train"), r"no folder train in it"),
    "an empty class": (lambda root: (root / "train/emu").mkdir(), r"emu: holds no images"),
    "an unknown class": (lambda root: (root / "test/emu").mkdir(), r"test/emu: not a class"),
    "no test images": (
        lambda root: [path.unlink() for path in (root / "test").rglob("*.png")],
        r"test: holds no images",
    ),
    "no classes": (
        lambda root: [shutil.rmtree(root / "train" / name) for name in ("cat", "dog")],
        r"no class folders",
    ),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGE)
def test_a_bad_image_folder_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    spoil, line = FOLDER_DAMAGE[damage]
    root = write_folder(tmp_path)
    spoil(root)
    refused(line, lambda: data.load(f"folder:{root}", validation=0))


# ---------------------------------------- parquet and the Hub


def write_parquet(
    path: Path,
    n: int = 6,
    image: str = "img",
    label: str = "label",
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A file as the Hub stores it: encoded images, and the features in the schema's metadata."""
    import datasets

    names = options.get("names", ["cat", "dog"])
    labels = options.get("labels", [i % len(names) for i in range(n)])
    cells = options.get(
        "cells", [{"bytes": png(Image.new("RGB", (4, 3), (i, 2, 3))), "path": None} for i in range(n)]
    )
    extra_features, extra_values = extra or {}, {name: [0] * n for name in extra or {}}
    features = {image: datasets.Image(), label: options.get("feature", datasets.ClassLabel(names=names))}
    rows = datasets.Dataset.from_dict(
        {image: cells, label: labels, **extra_values}, features=datasets.Features(features | extra_features)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tables.library("a test", "mend it"):
        rows.to_parquet(path)
    return path


def write_cifar(folder: Path, **options: Any) -> Path:
    write_parquet(folder / "train-00000-of-00001.parquet", **options)
    write_parquet(folder / "test-00000-of-00001.parquet", n=2)
    return folder


@pytest.mark.parametrize("place", ["", "cifar10", "plain_text", "cifar10/plain_text", "odd [1]*/cifar10"])
def test_a_local_folder_in_the_hubs_layout_is_read(tmp_path: Path, place: str) -> None:
    write_cifar(tmp_path / place)
    root = tmp_path / "odd [1]*" if place.startswith("odd") else tmp_path
    made = data.load("cifar10", data_dir=root, validation=0)
    assert made.train.images[:, :, 0, 0].tolist() == [[i, 2, 3] for i in range(6)]
    assert made.train.labels.tolist() == [0, 1] * 3
    assert (made.classes, made.shape, len(made.test)) == (("cat", "dog"), (3, 3, 4), 2)


def test_reading_is_silent_and_leaves_the_folder_and_the_library_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    write_cifar(tmp_path / "cifar10")
    before = sorted(path for path in tmp_path.rglob("*"))
    bars = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.ERROR)
    capfd.readouterr()
    data.load("cifar10", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert datasets.are_progress_bars_disabled() == bars
    assert datasets.logging.get_verbosity() == datasets.logging.ERROR


def test_the_environment_names_the_folder_and_an_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "here")
    monkeypatch.setenv(hub.ENVIRONMENT, str(tmp_path / "here"))
    assert len(data.load("cifar10").test) == 2
    refused(
        r"elsewhere: no parquet files of cifar10",
        lambda: data.load("cifar10", data_dir=tmp_path / "elsewhere"),
    )
    refused(r"no parquet files of name", lambda: data.load("hf:owner/name", data_dir=tmp_path / "elsewhere"))


def test_a_split_in_several_files_is_joined_and_an_error_names_the_file_and_row(tmp_path: Path) -> None:
    bad = [
        {"bytes": png(Image.new("RGB", (4, 3), (9, 2, 3))), "path": None},
        {"bytes": b"nonsense", "path": None},
    ]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", n=4)
    second = write_parquet(tmp_path / "train-00001-of-00002.parquet", n=2)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", n=2)
    made = data.load("cifar10", data_dir=tmp_path, validation=0)
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    write_parquet(second, n=2, cells=bad)
    refused(
        rf"^{re.escape(str(second))}: row 1: cannot be read as an image",
        lambda: data.load("cifar10", data_dir=tmp_path, validation=0),
    )


def test_the_named_label_column_is_taken_where_there_are_several(tmp_path: Path) -> None:
    import datasets

    for split in ("train", "test"):
        coarse = {"coarse_label": datasets.ClassLabel(names=["animal"])}
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", label="fine_label", extra=coarse)
    assert data.load("cifar100", data_dir=tmp_path).train.labels.unique().tolist() == [0, 1]
    line = (
        r"expected one label column, found 2 \(fine_label, coarse_label\) among img, fine_label, coarse_label"
    )
    refused(line, lambda: data.load("hf:owner/name", data_dir=tmp_path))
    assert data.load("hf:owner/name?label=coarse_label", data_dir=tmp_path).classes == ("animal",)


def test_a_class_label_is_told_from_a_plain_number(tmp_path: Path) -> None:
    import datasets

    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", extra={"id": datasets.Value("int64")})
    assert data.load("hf:owner/name", data_dir=tmp_path).classes == ("cat", "dog")


def test_plain_integer_labels_and_plain_bytes_are_understood(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(grey(i)), "path": None} for i in range(4)]
    for split in ("train", "valid"):
        pq.write_table(pa.table({"photo": cells, "class": [0, 1, 0, 1]}), tmp_path / f"{split}.parquet")
    made = data.load("hf:owner/name", data_dir=tmp_path, validation=0)
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert made.classes == ("0", "1")


def test_the_documented_split_serves_as_test(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("valid", 4)):
        write_parquet(tmp_path / f"{split}-00000-of-00001-1359597a978bc4fa.parquet", n=n, image="image")
    assert len(data.load("tiny_imagenet", data_dir=tmp_path).test) == 4


def damage_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


TEST_FILE = "test-00000-of-00001.parquet"
TRAIN_FILE = "train-00000-of-00001.parquet"
PARQUET_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (damage_file(TEST_FILE, cut), rf"{TEST_FILE}: is no complete parquet file"),
    "damaged inside": (
        damage_file(TRAIN_FILE, lambda c: c[:4] + bytes(200) + c[204:]),
        rf"{TRAIN_FILE}: is no complete parquet file",
    ),
    "empty": (damage_file(TRAIN_FILE, lambda _: b""), rf"{TRAIN_FILE}: is no complete parquet file"),
    "no test": (lambda root: (root / TEST_FILE).unlink(), rf"no test-\*\.parquet in it, found {TRAIN_FILE}"),
    "other columns": (
        lambda root: [write_parquet(root / name, image="photo") for name in (TEST_FILE, TRAIN_FILE)],
        r"no image column 'img', found photo, label",
    ),
    "no rows": (lambda root: write_parquet(root / TEST_FILE, n=0), rf"{TEST_FILE}: holds no images"),
    "no label": (
        lambda root: write_parquet(root / TRAIN_FILE, n=2, labels=[0, None]),
        r"train: 1 of 2 rows have no label",
    ),
    "hidden labels": (
        lambda root: write_parquet(root / TEST_FILE, n=2, labels=[-1, -1]),
        r"test: labels run -1\.\.-1, expected 0\.\.1",
    ),
    "no image": (
        lambda root: write_parquet(root / TRAIN_FILE, n=2, cells=[None, None]),
        r"row 0: column img is empty",
    ),
}


@pytest.mark.parametrize("damage", PARQUET_DAMAGE)
def test_bad_parquet_data_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    spoil, line = PARQUET_DAMAGE[damage]
    spoil(write_cifar(tmp_path))
    refused(line, lambda: data.load("cifar10", data_dir=tmp_path, validation=0))


def test_labels_of_text_are_refused(tmp_path: Path) -> None:
    import datasets

    for name in (TRAIN_FILE, TEST_FILE):
        write_parquet(tmp_path / name, n=2, labels=["a", "b"], feature=datasets.Value("string"))
    refused(
        r"column label holds .*string, expected integers", lambda: data.load("cifar10", data_dir=tmp_path)
    )


def test_a_named_data_set_is_downloaded_once_split_by_split_and_read_by_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.append((repo, options))
        write_cifar(tmp_path / "plain_text")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert data.load("cifar10").classes == ("cat", "dog")
    patterns = ["plain_text/train-*.parquet", "plain_text/test-*.parquet"]
    assert asked == [("uoft-cs/cifar10", {"repo_type": "dataset", "allow_patterns": patterns})]


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`owner/name` on a Hub that is this folder: a configuration "small" without a split called test."""
    import datasets

    real = datasets.load_dataset
    write_cifar(tmp_path)

    def load_dataset(path: str, name: str | None = None) -> Any:
        if path != "owner/name":
            raise ConnectionError(f"Couldn't reach '{path}'\non the Hub")
        split = "held_out" if name == "small" else "test"
        files = {"train": str(tmp_path / TRAIN_FILE), split: str(tmp_path / TEST_FILE)}
        return real("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("fake_hub")
def test_any_repository_of_the_hub_is_read_by_its_features() -> None:
    made = data.load("hf:owner/name", validation=0)
    assert made.train.images[:, :, 0, 0].tolist() == [[i, 2, 3] for i in range(6)]
    assert made.name == "hf:owner/name"
    assert len(data.load("hf:owner/name?config=small&test=held_out").test) == 2


@pytest.mark.usefixtures("fake_hub")
def test_what_the_hub_lacks_is_said_in_one_line() -> None:
    refused(
        r"hf:owner/name: no split 'test', found train, held_out; .*\?test=",
        lambda: data.load("hf:owner/name?config=small"),
    )
    refused(
        r"hf:owner/other: cannot be read \(ConnectionError: Couldn't reach",
        lambda: data.load("hf:owner/other"),
    )
    for text in ("hf:name", "hf:owner/name?tset=x", "hf:a/b/c"):
        refused(r"expected hf:owner/name", lambda text=text: data.load(text), ConfigError)


@pytest.mark.parametrize("absent", ["datasets", "huggingface_hub"])
def test_an_absent_extra_is_named_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    write_cifar(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)
    line = rf"needs the package {absent}; pip install 'robustlens\[hub\]'"
    refused(line, lambda: data.load("cifar10", data_dir=tmp_path))
    refused(line, lambda: data.load("hf:owner/name"))


@pytest.mark.parametrize(("name", "first"), [("mnist", "0"), ("fashion_mnist", "T-shirt/top")])
def test_idx_files_need_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str
) -> None:
    write_idx(tmp_path / name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    made = data.load(name, data_dir=tmp_path)
    assert (made.num_classes, made.classes[0]) == (10, first)


def test_labels_outside_the_known_classes_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, classes=2)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.full(8, 10, dtype=np.uint8))))
    refused(
        rf"{re.escape(str(labels))}: labels run 10\.\.10, expected 0\.\.9",
        lambda: data.load("mnist", data_dir=tmp_path),
    )


def test_idx_files_do_not_stand_in_for_colour_data_sets(tmp_path: Path) -> None:
    refused(r"no parquet files of cifar10", lambda: data.load("cifar10", data_dir=write_idx(tmp_path)))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    refused(
        r"found 'cifar-10', expected one of fashion-mnist-10k, cifar10, .*npz:PATH; did you mean cifar10\?$",
        lambda: data.load("cifar-10"),
        ConfigError,
    )
    for text in ("folder:", "ftp:somewhere", ""):
        refused(r"^data\.name: found", lambda text=text: data.load(text), ConfigError)


def test_a_new_data_set_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.DATASETS, "toy", hub.HubDataset("me/toy", test="valid", augmentation="flip"))
    for split in ("train", "valid"):
        write_parquet(tmp_path / "toy" / f"{split}-0.parquet")
    assert data.load("toy", data_dir=tmp_path).name == "toy"
    assert augment.default_for("toy") == "flip"
    assert "toy" in data.names()


def test_the_real_cifar10_is_read_from_a_local_folder(real_cifar10: Path) -> None:
    import pyarrow.parquet as pq

    made = data.load("cifar10", data_dir=real_cifar10, train_limit=1000, test_limit=200)
    assert (len(made.train), len(made.validation), len(made.test), made.shape) == (900, 100, 200, (3, 32, 32))
    assert made.classes[:3] == ("airplane", "automobile", "bird")
    assert made.train.labels.bincount().tolist() == [90] * 10
    table = pq.read_table(real_cifar10 / TRAIN_FILE)
    for at in (0, 450, 899):  # against Pillow and pyarrow alone
        row = int(made.train.index[at])
        expected = np.asarray(Image.open(io.BytesIO(table["img"][row]["bytes"].as_py())))
        assert np.array_equal(made.train.images[at].permute(1, 2, 0), expected)
        assert int(made.train.labels[at]) == table["label"][row].as_py()


def test_a_truncated_copy_of_the_real_cifar10_is_named(tmp_path: Path, real_cifar10: Path) -> None:
    content = (real_cifar10 / TEST_FILE).read_bytes()
    (tmp_path / TRAIN_FILE).write_bytes(content)
    (tmp_path / TEST_FILE).write_bytes(content[:-1000])
    refused(rf"{TEST_FILE}: is no complete parquet file", lambda: data.load("cifar10", data_dir=tmp_path))
    broken = bytearray(content)
    broken[200_000:200_400] = bytes(400)
    (tmp_path / TEST_FILE).write_bytes(broken)
    refused(rf"{re.escape(str(tmp_path / TEST_FILE))}: ", lambda: data.load("cifar10", data_dir=tmp_path))


# ---------------------------------------- augmentation


def test_a_window_of_the_padded_image_is_cut_and_mirrored_as_computed_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 1, 2, 2)
    down, right = torch.tensor([1, 0, 2, 1]), torch.tensor([1, 0, 1, 1])
    flipped = torch.tensor([False, False, True, True])
    window = augment._window(x, 1, down, right, flipped)
    assert window[:, 0].tolist() == [
        [[1, 2], [3, 4]],  # back where it was
        [[0, 0], [0, 1]],  # from the upper left corner: the image moves down and right
        [[4, 3], [0, 0]],  # one lower, mirrored
        [[2, 1], [4, 3]],  # in place, mirrored
    ]


def numbered(n: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    """Different images of distinct values, so that a window tells its place."""
    return torch.arange(1, n * channels * size * size + 1, dtype=torch.float32).view(n, channels, size, size)


def places(x: torch.Tensor, made: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Brute force: which of all windows and mirrors each result is."""
    size = x.shape[-1]
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    found = []
    for before, after in zip(padded, made, strict=True):
        for place in range(81 * 2):
            down, right, mirror = place // 18, place // 2 % 9, bool(place % 2)
            window = before[:, down : down + size, right : right + size]
            if torch.equal(window.flip(2) if mirror else window, after):
                found.append((down, right, mirror))
                break
    return found


def test_every_offset_and_both_mirrors_are_drawn_evenly() -> None:
    x = numbered(600, channels=1, size=6)
    made = augment.get("crop-flip")(x, torch.Generator().manual_seed(0))
    drawn = places(x, made)
    assert len(drawn) == len(x)
    for axis in (0, 1):
        counts = Counter(place[axis] for place in drawn)
        assert set(counts) == set(range(9))
        assert (
            sum((count - 600 / 9) ** 2 / (600 / 9) for count in counts.values()) < 26.1
        )  # chi2, 8 df, 0.1 %
    assert 240 < sum(place[2] for place in drawn) < 360
    assert len({place[:2] for place in drawn}) > 70  # rows, columns and mirrors are drawn apart
    assert len({place[::2] for place in drawn}) == len({place[1:] for place in drawn}) == 18


@pytest.mark.parametrize(
    ("name", "moves", "mirrors"), [("flip", False, True), ("crop", True, False), ("none", False, False)]
)
def test_each_augmentation_does_what_it_says(name: str, moves: bool, mirrors: bool) -> None:
    x = numbered(40)
    drawn = places(x, augment.get(name)(x, torch.Generator().manual_seed(1)))
    assert len(drawn) == 40
    assert any(place[:2] != (4, 4) for place in drawn) == moves
    assert any(place[2] for place in drawn) == mirrors


def test_the_draw_belongs_to_the_example_and_to_the_generators_state() -> None:
    x, both = numbered(12), augment.get("crop-flip")

    def draw(images: torch.Tensor, seed: int) -> torch.Tensor:
        return both(images, torch.Generator().manual_seed(seed))

    whole = draw(x, 7)
    assert torch.equal(draw(x[5:9], 7), whole[5:9])
    assert torch.equal(draw(x.flip(0), 7), whole.flip(0))
    assert not torch.equal(draw(x, 8), whole)
    assert torch.equal(both(x), both(x))
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(both(x, generator), both(x, generator))


def test_augmentation_keeps_shape_type_layout_and_the_global_random_state() -> None:
    state = torch.random.get_rng_state()
    for kind in (torch.float32, torch.bfloat16):
        x = torch.rand(4, 3, 6, 10, generator=torch.Generator().manual_seed(0)).to(kind)
        last = augment.get("crop-flip")(x.contiguous(memory_format=torch.channels_last))
        first = augment.get("crop-flip")(x)
        assert torch.equal(first, last)
        assert first.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert (first.shape, first.dtype) == (x.shape, kind)
    assert len(augment.get("crop-flip")(x[:0])) == 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_defaults_are_the_fields_and_unknown_data_is_left_alone() -> None:
    chosen = {name: augment.default_for(name) for name in hub.DATASETS}
    assert chosen == {
        "cifar10": "crop-flip",
        "cifar100": "crop-flip",
        "svhn": "crop",
        "mnist": "none",
        "fashion_mnist": "none",
        "tiny_imagenet": "crop-flip",
    }
    assert augment.default_for("fashion-mnist-10k") == augment.default_for("folder:somewhere") == "none"
    refused(
        r"data\.augment: found 'mixup', expected one of none, flip, crop, crop-flip",
        lambda: augment.get("mixup"),
        ConfigError,
    )
