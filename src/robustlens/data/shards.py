"""Images that stay on the disk: shards of raw pixels, of which the rows that are asked for are read.

Pixels are read into memory of the process, not mapped: where a shard was cut short or its disk fails, a
mapping ends the process, and a read is an error with the file's name. The first time that a process reads an
image, its digest is compared with the one in the folder.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from robustlens.errors import DataError
from robustlens.results.pack_folder import image_digest

_AT_A_TIME = 64  # images in memory while pixels are counted
_FIX = "restore the file, or pack again"


@dataclass(frozen=True, eq=False)
class Shards:
    """Files of one packed split.

    Attributes:
        paths: of the shards, in order.
        rows_per_shard: images in each but the last.
        shape: channels, height and width of an image.
        digests: of every image.
        histogram: of each channel, how many pixels have each value.
        verified: whether this process has compared an image with its digest.
    """

    paths: tuple[Path, ...]
    rows_per_shard: int
    shape: tuple[int, int, int]
    digests: UInt8[np.ndarray, "n 16"]
    histogram: Int64[Tensor, "c 256"]
    verified: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verified", np.zeros(len(self.digests), dtype=bool))

    def read(self, places: Int64[Tensor, " m"]) -> UInt8[Tensor, "m c h w"]:
        """Images at these places, in this order.

        Raises:
            DataError: a shard is missing, too short or damaged; with its name.
        """
        pixels = np.empty((len(places), *self.shape), dtype=np.uint8)
        numbers = (places // self.rows_per_shard).tolist()
        by_shard: dict[int, list[int]] = {}
        for position, number in enumerate(numbers):
            by_shard.setdefault(number, []).append(position)
        for number, positions in by_shard.items():
            self._read_from(number, positions, places, pixels)
        return torch.from_numpy(pixels)

    def _read_from(
        self, number: int, positions: list[int], places: Tensor, pixels: NDArray[np.uint8]
    ) -> None:
        """Fill the images at `positions` of `pixels`, all of which lie in one shard."""
        path, size = self.paths[number], int(np.prod(self.shape))
        try:
            with path.open("rb", buffering=0) as file:
                for position in positions:
                    row = int(places[position]) - number * self.rows_per_shard
                    file.seek(row * size)
                    self._fill(file, memoryview(pixels[position]).cast("B"), path, row)
                    self._verify(int(places[position]), pixels[position], path, row)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); {_FIX}") from error

    def _fill(self, file: io.FileIO, target: memoryview, path: Path, row: int) -> None:
        """Read one image whole; the system may return less than was asked for."""
        done = 0
        while done < len(target):
            count = file.readinto(target[done:])
            if not count:
                raise DataError(f"{path}: ends in image {row}, expected {len(target)} bytes of it; {_FIX}")
            done += count

    def _verify(self, place: int, image: NDArray[np.uint8], path: Path, row: int) -> None:
        if self.verified[place]:
            return
        if image_digest(image.data) != self.digests[place].tobytes():
            raise DataError(f"{path}: image {row} is damaged, its pixels are not those packed; {_FIX}")
        self.verified[place] = True


class PackedImages:
    """Some images of a packed split, by rows, as a tensor (n, c, h, w) would have them; `[rows]` reads them.

    Args:
        shards: where they lie.
        places: of the images in the shards.
    """

    def __init__(self, shards: Shards, places: Int64[Tensor, " n"]) -> None:
        self._shards, self._places = shards, places

    @property
    def shape(self) -> torch.Size:
        """Images, channels, height and width."""
        return torch.Size((len(self._places), *self._shards.shape))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Int64[Tensor, " m"] | slice) -> UInt8[Tensor, "m c h w"]:
        return self._shards.read(self._places[rows])

    def select(self, rows: Int64[Tensor, " m"] | slice) -> "PackedImages":
        """The images at `rows`; nothing is read."""
        return PackedImages(self._shards, self._places[rows])

    def followed_by(self, other: "PackedImages") -> "PackedImages":
        """These images and after them others of the same shards.

        Raises:
            DataError: the others lie elsewhere.
        """
        if other._shards is not self._shards:
            raise DataError(
                f"{other._shards.paths[0].parent}: packed images of two sources cannot be joined; pack them "
                "together"
            )
        return PackedImages(self._shards, torch.cat([self._places, other._places]))

    @property
    def digests(self) -> UInt8[np.ndarray, "n 16"]:
        """Digest of each image, as it was packed; nothing is read."""
        return self._shards.digests[self._places.numpy()]

    def histogram(self) -> Int64[Tensor, "c 256"]:
        """Of each channel, how many pixels have each value.

        That of the whole split is known; images are read where these are a part of it, or, where that is the
        smaller part, the others, whose pixels are taken away.
        """
        chosen = torch.bincount(self._places, minlength=len(self._shards.digests))
        if int(chosen.max()) <= 1 and 2 * len(self._places) > len(chosen):
            return self._shards.histogram - self._counted(torch.nonzero(chosen == 0).squeeze(1))
        return self._counted(self._places)

    def _counted(self, places: Tensor) -> Tensor:
        total = torch.zeros_like(self._shards.histogram)
        for part in places.split(_AT_A_TIME) if len(places) else ():
            total += histogram(self._shards.read(part))
        return total


if TYPE_CHECKING:
    Images = Any  # a tensor to most callers, who hold no packed images
else:
    Images = UInt8[Tensor, "_ _ _ _"] | PackedImages
"""Pixels 0..255 of some images, in memory or packed: both have `shape`, `len` and `[rows]`."""


def histogram(images: UInt8[Tensor, "n c h w"]) -> Int64[Tensor, "c 256"]:
    """Of each channel of images in memory, how many pixels have each value."""
    return torch.stack(
        [torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])]
    )


def selected(images: Images, rows: Int64[Tensor, " m"] | slice) -> Images:
    """The images at `rows`, where they lie."""
    return images.select(rows) if isinstance(images, PackedImages) else images[rows]


def joined(images: Images, others: Images) -> Images:
    """Images, and after them others, which lie in memory or in the same shards.

    Raises:
        DataError: they lie in two places.
    """
    if isinstance(images, PackedImages) and isinstance(others, PackedImages):
        return images.followed_by(others)
    if isinstance(images, Tensor) and isinstance(others, Tensor):
        return torch.cat((images, others))
    raise DataError("data: found images in memory beside packed ones, expected one kind; pack all of them")
