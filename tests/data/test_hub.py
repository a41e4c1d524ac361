"""Data sets by name: local folders in the Hub's layout, the Hub (faked: no network here), the extra."""

import errno
import gc
import gzip
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data_files import cut, grey, idx_bytes, png, refused, write_idx
from robustlens import data
from robustlens.data import augment, hub, tables
from robustlens.errors import ConfigError, ResourceError

POSIX = pytest.mark.skipif(os.name != "posix", reason="the system removes no file that is mapped")


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


def files_behind(source: Any) -> list[Path]:
    return [Path(file["filename"]) for file in source.read.func.__self__.rows.cache_files]


@pytest.mark.parametrize("without_name", [False, pytest.param(True, marks=POSIX)])
def test_images_are_mapped_from_a_copy_that_goes_with_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_name: bool
) -> None:
    write_cifar(tmp_path / "cifar10")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(tables, "_MAPS_WITHOUT_NAME", without_name)
    sources = data.registry.read("cifar10", tmp_path)
    mapped = files_behind(sources.train)
    assert mapped
    assert all(temporary in path.parents for path in mapped)
    assert len(list(temporary.iterdir())) == (not without_name), "a kill would leave it behind"
    test = sources.test
    del sources
    gc.collect()
    assert test.read(torch.arange(2)).shape == (2, 3, 3, 4), "either split keeps it"
    del test
    gc.collect()
    assert list(temporary.iterdir()) == []
    data.load("cifar10", data_dir=tmp_path)
    (tmp_path / "cifar10" / TEST_FILE).write_bytes(b"")
    refused("is no complete parquet file", lambda: data.load("cifar10", data_dir=tmp_path))
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_folder_of_temporary_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import datasets

    write_cifar(tmp_path / "cifar10")

    def full(*_: Any, **__: Any) -> None:
        try:
            raise OSError(number, "No space left on device")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    monkeypatch.setattr(datasets, "load_dataset", full)
    line = r"needs room for a copy of its files, found none in .*; free some space or set TMPDIR"
    refused(line, lambda: data.load("cifar10", data_dir=tmp_path), ResourceError)


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


NUMBERS = ["train-00000-of-00003", "train-00001-of-00003", "train-00002-of-00003"]
HASHED = "train-00000-of-00001-1359597a978bc4fa"
INCOMPLETE: dict[str, tuple[list[str], str]] = {
    "one is missing": (
        [NUMBERS[0], NUMBERS[2]],
        r"train-00001-of-00003\.parquet: no such file, expected 3 files as \S*/train-00000-of-00003\.parquet "
        "says; download it",
    ),
    "the last ones are missing": ([NUMBERS[0]], r"train-00001-of-00003\.parquet: no such file, expected 3"),
    "one has a number behind the last": (
        ["train-00000-of-00002", "train-00001-of-00002", "train-00002-of-00002"],
        r"train-00002-of-00002\.parquet: lies beside \S*/train-00000-of-00002\.parquet, expected numbers "
        "0 to 1, each once; remove what does not belong there",
    ),
    "one number twice": (
        ["train-00000-of-00001", HASHED],
        rf"train-00000-of-00001\.parquet: lies beside \S*/{HASHED}\.parquet, expected numbers 0 to 0, each once",
    ),
    "two counts": (
        ["train-00000-of-00001", *NUMBERS],
        r"train-00000-of-00003\.parquet: lies beside \S*/train-00000-of-00001\.parquet, expected the files of "
        "one download; remove the other's",
    ),
    "whole beside numbers": ([*NUMBERS, "train"], r"/train\.parquet: lies beside \S*/train-00000-of-00003\."),
    "whole beside parts": (["train", "train-0"], r"/train\.parquet: lies beside \S*/train-0\.parquet"),
    "a copy by the browser": (
        ["train-00000-of-00001", "train-00000-of-00001 (1)"],
        r"train-00000-of-00001\.parquet: lies beside \S*/train-00000-of-00001 \(1\)\.parquet",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("case", INCOMPLETE)
def test_the_files_of_a_split_are_complete_and_of_one_download(tmp_path: Path, case: str, split: str) -> None:
    names, line = INCOMPLETE[case]
    other = "test" if split == "train" else "train"
    for name in (*(name.replace("train", split) for name in names), f"{other}-0"):
        (tmp_path / f"{name}.parquet").touch()
    refused(line.replace("train", split), lambda: data.load("cifar10", data_dir=tmp_path))


def test_files_of_a_split_that_is_not_used_may_be_missing(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "unsupervised-00001-of-00002.parquet").touch()
    assert len(data.load("cifar10", data_dir=tmp_path, validation=0).train) == 6


@pytest.mark.parametrize("hashes", [("", ""), ("-1359597a978bc4fa", "-0b52ad5de2b0b1f0")])
def test_numbered_files_are_joined_in_their_order(tmp_path: Path, hashes: tuple[str, str]) -> None:
    for number, end in enumerate(hashes):
        write_parquet(tmp_path / f"train-{number:05}-of-00002{end}.parquet", n=2 + number)
    write_parquet(tmp_path / TEST_FILE, n=2)
    made = data.load("cifar10", data_dir=tmp_path, validation=0)
    assert made.train.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]


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


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("train-00001-of-00002", ["dog", "cat"]),
        ("test-00000-of-00001", ["dog", "cat"]),
        ("test-00000-of-00001", ["cat"]),
        ("train-00001-of-00002", ["cat", "dog", "emu"]),
    ],
)
def test_a_file_that_names_other_classes_is_refused(tmp_path: Path, file: str, names: list[str]) -> None:
    """The library would read its labels as numbers of the first file's classes."""
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_parquet(tmp_path / f"{name}.parquet", n=4, labels=[0, 0, 0, 0])
    assert data.load("cifar10", data_dir=tmp_path).classes == ("cat", "dog")
    write_parquet(tmp_path / f"{file}.parquet", n=4, names=names, labels=[0, 0, 0, 0])
    place = 0 if names[0] == "dog" else min(len(names), 2)
    here, there = ([*some, "nothing"][place] for some in (names, ["cat", "dog"]))
    refused(
        rf"{file}\.parquet: class {place} of column label is {here}, expected {there} as in "
        r".*train-00000-of-00002\.parquet; give all files",
        lambda: data.load("cifar10", data_dir=tmp_path),
    )


def test_only_the_classes_of_the_label_column_count_and_only_of_files_that_name_some(tmp_path: Path) -> None:
    import datasets

    for split, kinds in (("train", ["animal", "plant"]), ("test", ["plant", "animal"])):
        coarse = {"coarse_label": datasets.ClassLabel(names=kinds)}
        write_parquet(tmp_path / f"{split}-0.parquet", label="fine_label", extra=coarse)
    plain = datasets.Value("int64")
    write_parquet(
        tmp_path / "train-1.parquet", label="fine_label", feature=plain, extra={"coarse_label": plain}
    )
    assert len(data.load("cifar100", data_dir=tmp_path, validation=0).train) == 12
    refused(
        "class 0 of column coarse_label is plant, expected animal",
        lambda: data.load("hf:owner/name?label=coarse_label", data_dir=tmp_path),
    )


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

    real = datasets.load_dataset_builder
    write_cifar(tmp_path)

    def load_dataset_builder(path: str, name: str | None = None) -> Any:
        if path != "owner/name":
            raise ConnectionError(f"Couldn't reach '{path}'\non the Hub")
        split = "held_out" if name == "small" else "test"
        files = {"train": str(tmp_path / "train-*.parquet"), split: str(tmp_path / TEST_FILE)}
        return real("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)


@pytest.mark.usefixtures("fake_hub")
def test_any_repository_of_the_hub_is_read_by_its_features() -> None:
    made = data.load("hf:owner/name", validation=0)
    assert made.train.images[:, :, 0, 0].tolist() == [[i, 2, 3] for i in range(6)]
    assert made.name == "hf:owner/name"
    assert len(data.load("hf:owner/name?config=small&test=held_out").test) == 2


@pytest.mark.usefixtures("fake_hub")
@pytest.mark.parametrize("file", ["train-00001-of-00002.parquet", TEST_FILE])
def test_a_file_of_a_repository_that_names_other_classes_is_refused(tmp_path: Path, file: str) -> None:
    write_parquet(tmp_path / file, n=4, image="img", names=["dog", "cat"])
    refused(
        rf"{file}: class 0 of column label is dog, expected cat as in .*{TRAIN_FILE}; give all files",
        lambda: data.load("hf:owner/name"),
    )


@pytest.mark.parametrize("local", [True, False])
def test_tables_know_their_files_again_and_notice_a_change(
    tmp_path: Path, request: pytest.FixtureRequest, local: bool
) -> None:
    if local:
        write_cifar(tmp_path)
    else:
        request.getfixturevalue("fake_hub")

    def fingerprints() -> list[str]:
        sources = data.registry.read("hf:owner/name", tmp_path if local else None)
        made = [source.fingerprint for source in (sources.train, sources.test)]
        assert all(made)
        return [fingerprint(torch.arange(2)) for fingerprint in made if fingerprint]

    before = fingerprints()
    assert fingerprints() == before
    os.utime(tmp_path / TEST_FILE, (1, 1))
    after = fingerprints()
    assert after[1] != before[1]
    assert (after[0] == before[0]) == local, "a repository is one thing, of one commit"


def test_files_are_looked_at_once_for_all_shards_of_a_pack(tmp_path: Path) -> None:
    """The library's copy is of the files as they were when they were read: what they are now does not count."""
    sources = data.registry.read("cifar10", write_cifar(tmp_path))
    assert sources.train.fingerprint is not None
    before = sources.train.fingerprint(torch.arange(2))
    (tmp_path / TRAIN_FILE).unlink()
    assert sources.train.fingerprint(torch.arange(2, 4)) == before


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
        refused(r"expected hf:owner/name", partial(data.load, text), ConfigError)


@pytest.mark.parametrize("absent", ["datasets", "huggingface_hub"])
def test_an_absent_extra_is_named_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    write_cifar(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)
    line = rf"needs the package {absent}; pip install .*\[hub\]"
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
        r"found 'cifar-10', expected one of fashion-mnist-10k, cifar10, .*npz:PATH, packed:PATH, package.module:factory; did you mean 'cifar10'\?$",
        lambda: data.load("cifar-10"),
        ConfigError,
    )
    for text in ("folder:", ""):
        refused(r"^data\.name: found", partial(data.load, text), ConfigError)
    refused(r"^data\.name 'ftp:somewhere': ", lambda: data.load("ftp:somewhere"), ConfigError)


def test_a_new_data_set_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.DATASETS, "toy", hub.HubDataset("me/toy", test="valid", augmentation="flip"))
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
