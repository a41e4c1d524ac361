"""Data sets of the Hugging Face Hub, by name, and local folders in the same layout.

A named data set is a row of `HUB_DATASETS`. Its parquet files lie in a local folder, or are downloaded once
to the Hub's own cache; from there on the same code reads them. That takes the extra `hub`. MNIST and
Fashion-MNIST are also read from their IDX files, which takes nothing.
"""

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from robustlens.data import arrays, embedded, parquet_files, tables
from robustlens.data.paths import path_of
from robustlens.data.splits import Sources
from robustlens.data.tables import Columns
from robustlens.errors import ConfigError, DataError

ENVIRONMENT = "ROBUSTLENS_DATA"
_TEST_NAMES = ("test", "validation", "valid", "val")
_OPTIONS = ("config", "image", "label", "test")
_FIND = Columns()


@dataclass(frozen=True)
class HubDataset:
    """Place and use of a data set.

    Attributes:
        repo: "owner/name" on the Hub.
        folder: where its parquet files lie in the repository.
        columns: its image and label column.
        test: the split that serves as test; the first usual name if empty.
        augmentation: that the field trains it with (`robustlens.data.augment`).
        classes: class names, for data that is also published as IDX files, which have none.
    """

    repo: str
    folder: str = ""
    columns: Columns = _FIND
    test: str = ""
    augmentation: str = "none"
    classes: tuple[str, ...] = ()

    def load(self, name: str, data_dir: Path | None = None) -> Sources:
        """Its sources, from `data_dir` (or $ROBUSTLENS_DATA) where one is given, else from the Hub.

        Raises:
            DataError: files that are missing or damaged, the extra is absent, or the Hub cannot be reached.
        """
        folder = _local_folder(name, self, data_dir)
        if folder is not None and not _parquet_files(folder):
            return arrays.load_idx(folder, self.classes)
        return _load_folder(folder or _download(self), self)


_IMAGE_LABEL = Columns("image", "label")
HUB_DATASETS: dict[str, HubDataset] = {
    "cifar10": HubDataset("uoft-cs/cifar10", "plain_text", Columns("img", "label"), "test", "crop-flip"),
    "cifar100": HubDataset("uoft-cs/cifar100", "cifar100", Columns("img", "fine_label"), "test", "crop-flip"),
    "svhn": HubDataset("ufldl-stanford/svhn", "cropped_digits", _IMAGE_LABEL, "test", "crop"),
    "mnist": HubDataset("ylecun/mnist", "mnist", _IMAGE_LABEL, "test", classes=tuple("0123456789")),
    "fashion_mnist": HubDataset(
        "zalando-datasets/fashion_mnist", "fashion_mnist", _IMAGE_LABEL, "test", classes=embedded.CLASSES
    ),
    "tiny_imagenet": HubDataset("zh-plus/tiny-imagenet", "data", _IMAGE_LABEL, "valid", "crop-flip"),
}


def load_any(text: str, data_dir: Path | None = None) -> Sources:
    """Any "owner/name" on the Hub that has one image and one label column.

    Columns and splits that are ambiguous are named behind a question mark:
    `owner/name?config=small&image=photo&label=fine_label&test=validation`.

    Raises:
        ConfigError: the name is not of that form. DataError: as `load`, and columns that are ambiguous.
    """
    repo, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if repo.count("/") != 1 or not all(repo.split("/")) or not set(options) <= set(_OPTIONS):
        known = ", ".join(_OPTIONS)
        raise ConfigError(
            f"data.name: found 'hf:{text}', expected hf:owner/name, and after a ? any of {known}"
        )
    columns = Columns(options.get("image", ""), options.get("label", ""))
    entry = HubDataset(repo, options.get("config", ""), columns, options.get("test", ""))
    folder = _local_folder(repo.partition("/")[2], entry, data_dir)
    if folder is not None:
        return _load_folder(folder, entry)
    return tables.from_repository(repo, entry.folder, columns, lambda splits: _test_split(entry, splits))


def data_folder(data_dir: str | Path | None) -> Path | None:
    """The folder that data files are read from: `data_dir`, or that of the environment; None without.

    Raises `DataError` for a path that is none.
    """
    given = data_dir or os.environ.get(ENVIRONMENT)
    return path_of(given) if given else None


def _local_folder(name: str, entry: HubDataset, data_dir: Path | None) -> Path | None:
    """The folder that holds the files, DIR/name or DIR itself; None where no folder was given.

    A clone of the repository keeps its files one folder deeper. A folder that was given but does not hold the
    data is an error: going to the network instead would be a surprise.
    """
    root = data_folder(data_dir)
    if root is None:
        return None
    for folder in (root / name, root / name / entry.folder, root, root / entry.folder):
        if _parquet_files(folder) or (entry.classes and arrays.idx_file(folder, "train", "images")):
            return folder
    kinds = "parquet or IDX files" if entry.classes else "parquet files"
    raise DataError(
        f"{root}: no {kinds} of {name} in it or in {root / name}; put them there, or leave out data_dir and "
        f"{ENVIRONMENT} to download them"
    )


def _download(entry: HubDataset) -> Path:
    """The folder of the entry's parquet files in the Hub's cache; only the two splits that are used."""
    patterns = [f"{entry.folder}/{split}-*.parquet" for split in ("train", entry.test)]
    with tables.library(f"hf:{entry.repo}", tables.ONLINE):
        hub = importlib.import_module("huggingface_hub")
        path = hub.snapshot_download(entry.repo, repo_type="dataset", allow_patterns=patterns)
    return Path(path) / entry.folder


def _load_folder(folder: Path, entry: HubDataset) -> Sources:
    """A folder in the Hub's layout: train-*.parquet and test-*.parquet, or train.parquet and test.parquet.

    Raises `DataError` where a file is missing, or of another download than those beside it.
    """
    splits: dict[str, list[Path]] = {}
    for path in _parquet_files(folder):
        splits.setdefault(path.stem.partition("-")[0], []).append(path)
    test = _test_split(entry, splits)
    for split in ("train", test):
        if split not in splits:
            names = ", ".join(path.name for path in _parquet_files(folder)) or "nothing"
            raise DataError(f"{folder}: no {split}-*.parquet in it, found {names}; add the missing files")
        parquet_files.check_complete(splits[split])
    files = {"train": splits["train"], "test": splits[test]}
    return tables.from_files(files, entry.columns, str(folder), entry.classes)


def _test_split(entry: HubDataset, splits: Iterable[str]) -> str:
    """The split that serves as test: the one that is named, else the first usual name among the splits."""
    return entry.test or next((split for split in _TEST_NAMES if split in splits), "test")


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))
