"""Folders of packed images: a sealed manifest, shards of raw pixels, labels and digests of the images.

    manifest.json            what is there: `PackRecord`
    train-00000.u8 ...       pixels, uint8, image after image, each as channels x height x width
    train.safetensors        of every image its label, its position in the source and its digest
    train-00000.safetensors  digests of a finished shard, while the folder is being packed

The manifest is written last: a folder without one is not packed yet.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustlens.errors import StateError
from robustlens.results import array_files, files
from robustlens.results.array_files import ArrayFile
from robustlens.results.links import inside
from robustlens.results.values import Arrays, decode

_CHUNK = 1 << 24
_MANIFEST = "manifest.json"
_KIND = "pack"


@dataclass(frozen=True)
class ShardRecord:
    """Shard of a split: its file, how many images it holds, and the SHA-256 of its bytes."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class PackedSplitRecord:
    """Split of a packed data set.

    Attributes:
        rows: images. rows_per_shard: of every shard but the last.
        per_class: images of each class.
        histogram: of each channel, how many pixels have each of the values 0 to 255.
        arrays_seal: of the file of labels, positions and digests.
        shards: in order.
    """

    rows: int
    rows_per_shard: int
    per_class: tuple[int, ...]
    histogram: tuple[tuple[int, ...], ...]
    arrays_seal: str
    shards: tuple[ShardRecord, ...]


@dataclass(frozen=True)
class PackRecord:
    """Manifest of a packed data set.

    Attributes:
        source: name of the data set that was packed. identity: hash of what was asked for.
        fingerprint: of the files that were packed (`data.Source.fingerprint`); None where an older version
            packed them, and nothing is known of them.
        size: side that images were resized and cropped to; None where they are as they were.
        shape: channels, height and width of every image.
        classes: names, in the order of the labels.
        splits: "train" and "test".
    """

    source: str
    identity: str
    size: int | None
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    splits: dict[str, PackedSplitRecord]
    fingerprint: str | None = None


class PackFolder:
    """Folder of a packed data set; its readers raise `StateError` naming the file that is damaged."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a packed data set that is complete."""
        return self.manifest.exists()

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return inside(self.folder, _MANIFEST)

    @property
    def record(self) -> PackRecord:
        """The manifest, its seal checked."""
        return decode(PackRecord, files.read_json(self.manifest, _KIND), str(self.manifest))

    def write_record(self, record: PackRecord) -> None:
        """Write the manifest: the folder is complete."""
        files.write_json(self.manifest, record, _KIND)

    # -- files -------------------------------------------------------------------------------------

    def shard_path(self, split: str, number: int) -> Path:
        """Path of a shard."""
        return inside(self.folder, f"{split}-{number:05d}.u8")

    def arrays(self, split: str, record: PackedSplitRecord) -> Arrays:
        """Labels, positions and digests of a split's images, by name; the file is verified when read."""
        return ArrayFile(inside(self.folder, f"{split}.safetensors"), record.arrays_seal)

    def write_arrays(self, split: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Write a split's arrays; returns their seal."""
        return array_files.write_arrays(inside(self.folder, f"{split}.safetensors"), arrays)

    def write_shard(
        self,
        split: str,
        number: int,
        pixels: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        identity: str,
        fingerprint: str,
    ) -> None:
        """Write a shard, and after it what is known of its images, by which the shard counts as finished."""
        content = np.ascontiguousarray(pixels).data.cast("B")
        files.write_atomic(self.shard_path(split, number), content)
        sha256 = hashlib.sha256(content).hexdigest()
        header = {"identity": identity, "fingerprint": fingerprint, "rows": len(pixels), "sha256": sha256}
        array_files.write_arrays(self._finished(split, number), arrays, header)

    def finished_shard(
        self, split: str, number: int, identity: str, fingerprint: str
    ) -> tuple[ShardRecord, dict[str, np.ndarray]] | None:
        """A shard that an earlier call finished, and what is known of its images; None where there is none.

        One whose images have changed since counts as none, and so does one of an older version, which kept no
        fingerprint of them: it is made again.

        Raises:
            StateError: it belongs to another source, or the shard is gone.
        """
        path, shard = self._finished(split, number), self.shard_path(split, number)
        if not path.exists():
            return None
        file, arrays = array_files.read_tensors(path, "numpy")
        header = file.values
        if header.get("identity") != identity:
            raise StateError(f"{path}: belongs to another source or size; give another folder, or delete it")
        if header.get("fingerprint") != fingerprint:
            return None
        record = ShardRecord(shard.name, int(header["rows"]), str(header["sha256"]))
        if not shard.exists():
            raise StateError(f"{shard}: no such file, though {path.name} says it is finished; delete that")
        return record, arrays

    def remove_finished(self, split: str, shards: int) -> None:
        """Remove what was kept of each shard while the folder was being packed."""
        for number in range(shards):
            files.remove(self._finished(split, number))

    def check_shard(self, shard: ShardRecord, shape: tuple[int, int, int]) -> None:
        """Read a shard, and raise `StateError` where its bytes are not those that were packed."""
        path = inside(self.folder, shard.file)
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while part := file.read(_CHUNK):
                    digest.update(part)
                    size += len(part)
        except OSError as error:
            raise StateError(f"{path}: cannot be read ({error.strerror or error}); pack again") from error
        expected = shard.rows * int(np.prod(shape))
        if size != expected:
            raise StateError(f"{path}: found {size} bytes, expected {expected}; restore it, or pack again")
        if digest.hexdigest() != shard.sha256:
            raise StateError(f"{path}: damaged, its bytes are not those packed; restore it, or pack again")

    def _finished(self, split: str, number: int) -> Path:
        return inside(self.folder, f"{split}-{number:05d}.safetensors")


def image_digest(pixels: Any) -> bytes:
    """Sixteen bytes of the SHA-256 of an image's pixels."""
    return hashlib.sha256(pixels).digest()[:16]
