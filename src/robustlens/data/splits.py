"""Splits: uint8 images, in memory or packed, and the draw of subsets and of the validation split.

A reader hands over `Sources`: the labels of every row, and a way to read the pixels of chosen rows. Rows are
chosen here, from the labels alone, so that a small study on a large data set decodes only its own images.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from robustlens.config import in_unicode
from robustlens.data import shards
from robustlens.data.shards import Images, PackedImages
from robustlens.data.stratified import subset, validation_rows
from robustlens.errors import ConfigError, DataError

_AT_A_TIME = 256  # images in memory where they are taken one by one


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
        images: pixels 0..255, (n, c, h, w): a tensor, or `PackedImages`, which reads them when asked for.
        labels: class numbers 0..C-1.
        index: position of each image in the source split, so that an image can be named in a report.
        crop: side of the square in the middle that `x` shows of each image; None shows all of it.
    """

    images: Images
    labels: Int64[Tensor, " n"]
    index: Int64[Tensor, " n"]
    crop: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image of `x`."""
        channels, *sides = self.images.shape[1:]
        height, width = sides if self.crop is None else (self.crop, self.crop)
        return channels, height, width

    @property
    def is_packed(self) -> bool:
        """Whether the images lie on the disk, and `x` reads them."""
        return isinstance(self.images, PackedImages)

    def x(self, rows: Int64[Tensor, " m"] | slice | None = None) -> Float[Tensor, "m c h w"]:
        """Float32 images in [0, 1]: those at `rows` (positions in this split), or all; raises `DataError`."""
        return as_floats(self.pixels(rows))

    def pixels(self, rows: Int64[Tensor, " m"] | slice | None = None) -> UInt8[Tensor, "m c h w"]:
        """The pixels 0..255 that `x` shows."""
        return self.cropped(self.images[slice(None) if rows is None else rows])

    def cropped(self, images: UInt8[Tensor, "m c h w"]) -> UInt8[Tensor, "m c _ _"]:
        """The square in the middle of whole images of this split, where it has a `crop`."""
        if self.crop is None:
            return images
        top, left = ((side - self.crop) // 2 for side in images.shape[2:])
        return images[:, :, top : top + self.crop, left : left + self.crop]

    def followed_by(self, other: "Split") -> "Split":
        """This split, and the images of `other` after it."""
        return replace(
            self,
            images=shards.joined(self.images, other.images),
            labels=torch.cat((self.labels, other.labels)),
            index=torch.cat((self.index, other.index)),
        )

    def take(self, n: int, seed: int = 0) -> "Split":
        """A stratified subset of `n` images, in this split's order.

        Deterministic in `seed` and nested: for one seed, `take(10)` lies inside `take(20)`. Every class gets
        its share of `n`, rounded down or up.

        Raises:
            ConfigError: `n` is negative or larger than the split.
        """
        rows = subset(self.labels, n, seed, "take: n")
        return self.at(rows)

    def at(self, rows: Int64[Tensor, " m"] | slice) -> "Split":
        """The images at `rows`; packed ones are not read."""
        images = shards.selected(self.images, rows)
        return replace(self, images=images, labels=self.labels[rows], index=self.index[rows])


def as_floats(pixels: UInt8[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Float32 values in [0, 1] of pixels 0..255: the nearest to pixel / 255."""
    return pixels.to(torch.float32) / 255


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set ready for training: `validation` came out of the training data, `test` never did.

    Attributes:
        classes: their names, in the order of the labels.
        name: as it was loaded.
        unlabeled: more training images, if any were asked for. Their labels are there to score a network that
            labels them; nothing is trained on them.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    unlabeled: Split | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of all pixels and labels: the same name may stand for other files.

        Of packed images the digests count, which stand for their pixels.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(_bytes_of(split.images))
            digest.update(bytes(split.labels.contiguous().numpy()))
        if self.unlabeled is not None:
            digest.update(_bytes_of(self.unlabeled.images))
        if self.train.crop is not None:
            digest.update(f"crop {self.train.crop}".encode())
        return digest.hexdigest()[:16]


def _bytes_of(images: Images) -> bytes:
    return bytes(images.digests if isinstance(images, PackedImages) else images.contiguous().numpy())


@dataclass(frozen=True, eq=False)
class Source:
    """One split before its pixels are read.

    Attributes:
        labels: the class of every row.
        read: pixels of the given rows, (m,) -> (m, c, h, w) uint8 with c 1 or 3; raises `DataError`.
        where: the file or folder, as an error message names it.
        index: position of each row in the published split, where that is not simply its own position.
        each: images of the given rows one by one, (h, w, 1 or 3), of any size; None where `read` has them.
        crop: of every split that is made of it.
        fingerprint: of what the given rows are read from; another one where that has changed. It costs
            little: files are not read. None for arrays in memory.
    """

    labels: Int64[Tensor, " n"]
    read: Callable[[Int64[Tensor, " m"]], Images]
    where: str
    index: Int64[Tensor, " n"] | None = None
    each: Callable[[Int64[Tensor, " m"]], Iterator[UInt8[np.ndarray, "h w c"]]] | None = None
    crop: int | None = None
    fingerprint: Callable[[Int64[Tensor, " m"]], str] | None = None

    def split(self, rows: Int64[Tensor, " m"]) -> Split:
        """Read `rows`; packed images stay where they are."""
        index = rows if self.index is None else self.index[rows]
        return Split(self.read(rows), self.labels[rows], index, self.crop)

    def one_by_one(self, rows: Int64[Tensor, " m"]) -> Iterator[UInt8[np.ndarray, "h w c"]]:
        """Images of the given rows as its splits show them, of any size, a few in memory at a time."""
        for image in self._whole(rows) if self.each is None else self.each(rows):
            yield image if self.crop is None else middle(image, self.crop)

    def _whole(self, rows: Int64[Tensor, " m"]) -> Iterator[UInt8[np.ndarray, "h w c"]]:
        for some in rows.split(_AT_A_TIME):
            yield from self.read(some)[:].permute(0, 2, 3, 1).numpy()


def middle(image: UInt8[np.ndarray, "h w c"], side: int) -> UInt8[np.ndarray, "side side c"]:
    """The square in the middle of an image."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


@dataclass(frozen=True, eq=False)
class Sources:
    """Two sources and the names of the classes, as every reader returns them."""

    train: Source
    test: Source
    classes: tuple[str, ...]


def assemble(
    sources: Sources,
    name: str,
    *,
    validation: float = 0.1,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    unlabeled: int = 0,
) -> Splits:
    """Check the sources, choose rows, read them; arguments as those of `data.load`.

    The validation split has at least one image, unless its share is 0.

    Raises:
        ConfigError: a limit or a share that cannot be met.
        DataError: as `check`, or images of two sizes.
    """
    check(sources)
    rows = _limited(sources.train, train_limit, seed, "data.train_limit")
    pool = _beyond(sources.train, rows, unlabeled, seed)
    test_rows = _limited(sources.test, test_limit, seed, "data.test_limit")
    chosen, left = validation_rows(sources.train.labels[rows], validation, seed)
    train, test = sources.train.split(rows[left]), sources.test.split(test_rows)
    validation_split = sources.train.split(rows[chosen]) if len(chosen) else train.at(slice(0))
    more = [sources.train.split(pool)] if len(pool) else []
    train, validation_split, test, *more = _alike([train, validation_split, test, *more], sources)
    return Splits(train, validation_split, test, sources.classes, name, *more)


def in_one_line(error: BaseException) -> str:
    """The message of a library, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _limited(source: Source, limit: int | None, seed: int, field: str) -> Tensor:
    if limit is None:
        return torch.arange(len(source.labels))
    if limit < 1:
        raise ConfigError(f"{field}: found {limit}, expected at least 1 image, or nothing for all of them")
    return subset(source.labels, limit, seed, field)


def _beyond(source: Source, rows: Tensor, unlabeled: int, seed: int) -> Tensor:
    """The `unlabeled` rows that a larger limit would have taken next; stratified and nested as these are."""
    if not unlabeled:
        return rows[:0]
    left = len(source.labels) - len(rows)
    if unlabeled > left:
        raise ConfigError(
            f"data.unlabeled: found {unlabeled}, expected at most the {left} training images beyond "
            "data.train_limit; lower one of them"
        )
    more = _limited(source, len(rows) + unlabeled, seed, "data.unlabeled")
    return more[~torch.isin(more, rows)]


def check(sources: Sources) -> None:
    """Raise `DataError` for no images, labels of no class, or a class whose name results cannot keep."""
    for source in (sources.train, sources.test):
        _check_labels(source, len(sources.classes))
    for number, name in enumerate(sources.classes):
        if in_unicode(str(name)) != name:
            raise DataError(
                f"{sources.train.where}: class {number} is named {name!a}, expected Unicode text; rename it"
            )


def _check_labels(source: Source, classes: int) -> None:
    """Raise `DataError` for a source without images, or with labels outside 0..classes - 1."""
    labels = source.labels
    if not len(labels):
        raise DataError(f"{source.where}: holds no images, expected at least one; is the split complete?")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{source.where}: labels run {low}..{high}, expected 0..{classes - 1} ({classes} classes); "
            f"renumber them, or name another label column"
        )


def _alike(splits: list[Split], sources: Sources) -> list[Split]:
    """Give all splits the same channels (grey becomes RGB beside RGB); refuse different sizes."""
    sizes = {tuple(split.images.shape[2:]) for split in splits}
    if len(sizes) > 1:
        shown = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        where = f"{sources.train.where} and {sources.test.where}"
        raise DataError(f"{where}: images are {shown}, expected one size; resize them")
    channels = max(split.images.shape[1] for split in splits)
    return [
        split
        if split.images.shape[1] == channels
        else replace(split, images=split.images[:].repeat(1, channels, 1, 1))
        for split in splits
    ]
