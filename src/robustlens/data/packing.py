"""Packing: any data set, once, into a folder whose images stay on the disk while networks are trained.

A folder that was stopped half-way is taken up where it was: a shard that is finished is not made again.
"""

import hashlib
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from robustlens.data import shards
from robustlens.data.registry import read
from robustlens.data.resizing import resized
from robustlens.data.splits import Source, Sources, check
from robustlens.errors import ConfigError, DataError, ResourceError, StateError
from robustlens.progress import Event, Listener, silent
from robustlens.results.locks import locked
from robustlens.results.pack_folder import (
    PackedSplitRecord,
    PackFolder,
    PackRecord,
    ShardRecord,
    image_digest,
)

SHARD_BYTES = 128 << 20
"""Bytes of a shard, about: that much is lost where packing is stopped, and held in memory by each thread."""
_PROBED = 64  # images of each split that are looked at for their channels
_VERSION = 1  # of how images are resized: another one makes other pixels


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is packed: the sources, their common shape, and the hash that a half-packed folder is bound to."""

    sources: dict[str, Source]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    size: int | None
    rows_per_shard: int
    name: str
    fingerprint: str

    @property
    def identity(self) -> str:
        asked = (_VERSION, self.name, self.classes, self.shape, self.size, self.rows_per_shard)
        digest = hashlib.sha256(repr(asked).encode())
        for source in self.sources.values():
            digest.update(source.labels.numpy().data)
            if source.crop is not None:  # packs of crops that an older version made hold whole images
                digest.update(f"crop {source.crop}".encode())
        return digest.hexdigest()[:16]

    @property
    def shards(self) -> list[tuple[str, int, int, int]]:
        """Split, number, first row and end of every shard."""
        step = self.rows_per_shard
        return [
            (split, start // step, start, min(start + step, len(source.labels)))
            for split, source in self.sources.items()
            for start in range(0, len(source.labels), step)
        ]


def pack(
    name: str,
    out: Path | str,
    *,
    size: int | None = None,
    channels: int | None = None,
    data_dir: Path | str | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    progress: Listener = silent,
) -> PackRecord:
    """Pack a data set into a folder that `load("packed:FOLDER")` reads.

    Pixels are stored as they are decoded, uint8; a packed data set gives the same images as its source. With
    `size`, the shorter side of each image is resized to it (bilinear, antialiased) and the middle square is
    kept, as the field does for ImageNet.

    Args:
        name: of the data set, as `load` takes it: "cifar10", "folder:PATH", "npz:PATH", "hf:owner/name" ...
        out: the folder. A complete pack of the same source stays as it is; one that was stopped goes on.
        size: side of the stored images; None keeps them, and then they have to be of one size.
        channels: 1 or 3; None for those of the source, of which a sample is looked at.
        data_dir: as for `load`.
        shard_bytes: about how large a file of pixels becomes.
        threads: that decode and resize at a time, each a shard; None for one a core, at most 8.
        progress: hears an event after every shard, counted in images.

    Raises:
        ConfigError: an unknown name, a size that no image can have, or fewer threads than one.
        DataError: images that are missing, damaged or of several sizes.
        StateError: the folder holds another data set, or this one before its files changed, or a file in it
            is damaged.
        LockedError: another process packs into the folder. ResourceError: the disk is full.
    """
    if size is not None and not 1 <= size <= 4096:
        raise ConfigError(f"data pack: --size: found {size}, expected 1 to 4096 pixels")
    if channels not in (None, 1, 3):
        raise ConfigError(f"data pack: --channels: found {channels}, expected 1 or 3")
    if threads is not None and threads < 1:
        raise ConfigError(f"data pack: threads: found {threads}, expected at least 1, or None for one a core")
    folder = PackFolder(out)
    sources = read(name, None if data_dir is None else Path(data_dir))
    plan = _plan(name, sources, size, channels, shard_bytes)
    with locked(folder.folder):
        if folder.exists:
            record = folder.record
            if record.identity != plan.identity:
                raise StateError(
                    f"{folder.manifest}: holds {record.source} packed otherwise; choose another folder"
                )
            if record.fingerprint not in (None, plan.fingerprint):
                raise StateError(
                    f"{folder.manifest}: {record.source} has changed since it was packed: found other names, "
                    "sizes or times of files; choose another folder or delete this one"
                )
            return record
        _check_space(folder, plan)
        finished = _pack_shards(folder, plan, threads or min(8, os.cpu_count() or 1), progress)
        if _fingerprint(plan.sources) != plan.fingerprint:
            raise StateError(
                f"{folder.folder}: {name} has changed while it was packed; pack again, which makes what has "
                "changed anew"
            )
        return _complete(folder, plan, finished)


def _plan(name: str, sources: Sources, size: int | None, channels: int | None, shard_bytes: int) -> _Plan:
    """Look at the labels and at a few images of each split."""
    both = {"train": sources.train, "test": sources.test}
    check(sources)
    seen: list[tuple[int, ...]] = []
    for source in both.values():
        rows = torch.linspace(0, len(source.labels) - 1, min(_PROBED, len(source.labels))).long()
        seen += [image.shape for image in source.one_by_one(rows)]
    depth = channels or max(shape[2] for shape in seen)
    height, width = (size, size) if size else seen[0][:2]
    per_shard = max(1, shard_bytes // (depth * height * width))
    return _Plan(both, sources.classes, (depth, height, width), size, per_shard, name, _fingerprint(both))


def _fingerprint(sources: dict[str, Source]) -> str:
    """Those of both sources; empty for arrays in memory, of which nothing is known but what they hold."""
    return " ".join(_part(source, 0, len(source.labels)) for source in sources.values())


def _part(source: Source, start: int, end: int) -> str:
    """Fingerprint of the rows of a shard."""
    return source.fingerprint(torch.arange(start, end)) if source.fingerprint else ""


def _check_space(folder: PackFolder, plan: _Plan) -> None:
    """Refuse to begin what the disk does not hold."""
    image = math.prod(plan.shape)
    there = sum(path.stat().st_size for path in folder.folder.glob("*.u8"))
    needed = sum(len(source.labels) for source in plan.sources.values()) * image - there
    free = shutil.disk_usage(folder.folder).free
    if needed > free:
        raise ResourceError(
            f"{folder.folder}: needs {needed / 1e9:.3g} GB, found {free / 1e9:.3g} GB free; free some space, "
            "choose another folder or a smaller --size"
        )


def _pack_shards(
    folder: PackFolder, plan: _Plan, threads: int, progress: Listener
) -> dict[tuple[str, int], tuple[ShardRecord, dict[str, np.ndarray]]]:
    """Make the shards that are missing; what is known of each, by split and number."""
    finished, missing = {}, []
    for split, number, start, end in plan.shards:
        part = _part(plan.sources[split], start, end)
        shard = folder.finished_shard(split, number, plan.identity, part)
        if shard is None:
            missing.append((split, number, start, end, part))
        else:
            finished[split, number] = shard
    total = sum(end - start for _, _, start, end in plan.shards)
    done = total - sum(end - start for _, _, start, end, _ in missing)
    progress(Event("pack", done, total))
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="pack")
    try:
        futures = {pool.submit(_make_shard, folder, plan, *shard): shard for shard in missing}
        for future in as_completed(futures):
            split, number, start, end, part = futures[future]
            future.result()
            made = folder.finished_shard(split, number, plan.identity, part)
            assert made is not None
            finished[split, number] = made
            done += end - start
            progress(Event("pack", done, total, split))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return finished


def _make_shard(
    folder: PackFolder, plan: _Plan, split: str, number: int, start: int, end: int, part: str
) -> None:
    """Read, resize and write the images of one shard; `part` is their fingerprint from before."""
    source = plan.sources[split]
    pixels = np.empty((end - start, *plan.shape), dtype=np.uint8)
    counts = torch.zeros((plan.shape[0], 256), dtype=torch.int64)
    images = source.one_by_one(torch.arange(start, end))
    for place, image in enumerate(images):
        pixels[place] = _fitted(image, plan, f"{source.where}: image {start + place}")
        counts += shards.histogram(torch.from_numpy(pixels[place : place + 1]))
    digests = np.frombuffer(b"".join(image_digest(image.data) for image in pixels), dtype=np.uint8)
    known = {"digests": digests.reshape(-1, 16), "histogram": counts.numpy()}
    folder.write_shard(split, number, pixels, known, plan.identity, part)


def _fitted(image: UInt8[np.ndarray, "_ _ _"], plan: _Plan, where: str) -> UInt8[np.ndarray, "_ _ _"]:
    """The image in the plan's shape."""
    channels, height, width = plan.shape
    if plan.size is not None:
        image = resized(image, plan.size)
    if image.shape[:2] != (height, width):
        shown = f"{image.shape[0]}x{image.shape[1]}"
        raise DataError(f"{where} is {shown}, expected {height}x{width} as the first one; give --size")
    if image.shape[2] > channels:
        raise DataError(f"{where} has colours, expected grey as in a sample of the images; give --channels 3")
    return np.broadcast_to(image, (height, width, channels)).transpose(2, 0, 1)


def _complete(
    folder: PackFolder,
    plan: _Plan,
    finished: dict[tuple[str, int], tuple[ShardRecord, dict[str, np.ndarray]]],
) -> PackRecord:
    """Write labels, digests and, last, the manifest; what was kept of each shard goes."""
    splits = {split: _split_record(folder, plan, split, finished) for split in plan.sources}
    record = PackRecord(
        plan.name, plan.identity, plan.size, plan.shape, plan.classes, splits, plan.fingerprint
    )
    folder.write_record(record)
    for split, packed in splits.items():
        folder.remove_finished(split, len(packed.shards))
    return record


def _split_record(
    folder: PackFolder,
    plan: _Plan,
    split: str,
    finished: dict[tuple[str, int], tuple[ShardRecord, dict[str, np.ndarray]]],
) -> PackedSplitRecord:
    source = plan.sources[split]
    made = [finished[name, number] for name, number, _, _ in plan.shards if name == split]
    counts = sum(arrays["histogram"] for _, arrays in made)
    index = torch.arange(len(source.labels)) if source.index is None else source.index
    arrays = {
        "labels": source.labels.numpy(),
        "index": index.numpy(),
        "digests": np.concatenate([arrays["digests"] for _, arrays in made]),
    }
    return PackedSplitRecord(
        rows=len(source.labels),
        rows_per_shard=plan.rows_per_shard,
        per_class=tuple(source.labels.bincount(minlength=len(plan.classes)).tolist()),
        histogram=tuple(tuple(int(count) for count in channel) for channel in np.asarray(counts)),
        arrays_seal=folder.write_arrays(split, arrays),
        shards=tuple(record for record, _ in made),
    )
