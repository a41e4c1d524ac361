"""Reader of packed folders: `packed:PATH`, or `packed:PATH?crop=224` for the middle of each image."""

import hashlib
from pathlib import Path

import torch

from robustlens.data.paths import path_of
from robustlens.data.shards import PackedImages, Shards
from robustlens.data.splits import Source, Sources
from robustlens.errors import ConfigError, DataError, StateError
from robustlens.results.pack_folder import PackedSplitRecord, PackFolder, PackRecord


def load(text: str) -> Sources:
    """The data set in a folder that `pack` wrote; no pixel is read.

    The manifest and the files of labels are checked now, an image when it is first read, and every byte by
    `robustlens verify`.

    Args:
        text: the folder and, behind a question mark, `crop=SIDE`.

    Raises:
        ConfigError: another option than `crop`, or one that is no side of these images.
        DataError: no packed data set, or a file that is missing or damaged; with its name.
    """
    path, _, query = text.partition("?")
    folder = PackFolder(path_of(path))
    if not folder.exists:
        raise DataError(
            f"{folder.folder}: holds no manifest, expected a packed data set; make it, or finish it, with "
            "robustlens data pack SOURCE FOLDER"
        )
    try:
        record = folder.record
        crop = _crop(query, record)
        train, test = (_source(folder, record, split, crop) for split in ("train", "test"))
    except StateError as error:
        raise DataError(f"{error}; or pack again") from error
    except KeyError as error:
        raise DataError(f"{folder.manifest}: names no {error.args[0]}, expected it; pack again") from error
    return Sources(train, test, record.classes)


def _crop(query: str, record: PackRecord) -> int | None:
    if not query:
        return None
    name, _, value = query.partition("=")
    most = min(record.shape[1:])
    if name != "crop" or not value.isdecimal() or not 1 <= int(value) <= most:
        raise ConfigError(
            f"data.name: found '?{query}', expected ?crop=SIDE with a side of 1 to {most} pixels"
        )
    return int(value)


def _source(folder: PackFolder, record: PackRecord, name: str, crop: int | None) -> Source:
    split = record.splits[name]
    arrays = folder.arrays(name, split)
    labels, index = (torch.from_numpy(arrays[key]) for key in ("labels", "index"))
    shards = Shards(
        paths=tuple(_path(folder, record, split, number) for number in range(len(split.shards))),
        rows_per_shard=split.rows_per_shard,
        shape=record.shape,
        digests=arrays["digests"],
        histogram=torch.tensor(split.histogram, dtype=torch.int64),
    )
    images = PackedImages(shards, torch.arange(split.rows))
    return Source(
        labels,
        images.select,
        f"{folder.folder}: {name}",
        index,
        crop=crop,
        fingerprint=lambda rows: hashlib.sha256(shards.digests[rows.numpy()].tobytes()).hexdigest()[:16],
    )


def _path(folder: PackFolder, record: PackRecord, split: PackedSplitRecord, number: int) -> Path:
    """Path of a shard that has the size of its images."""
    shard = split.shards[number]
    path = folder.folder / shard.file
    size = shard.rows * record.shape[0] * record.shape[1] * record.shape[2]
    there = path.stat().st_size if path.is_file() else None
    if there != size:
        what = "no such file" if there is None else f"{there} bytes"
        raise DataError(f"{path}: found {what}, expected {size} bytes; restore it, or pack again")
    return path
