"""Splits: uint8 images in memory, and the draw of subsets and of the validation split from a source.

A reader hands over `Sources`: the labels of every row, and a way to read the pixels of chosen rows. Rows are
chosen here, from the labels alone, so that a small study on a large data set decodes only its own images.
"""

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from robustlens import noise
from robustlens.errors import ConfigError, DataError

_SUBSET, _VALIDATION = 1, 2  # sub-streams of the data seed


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in memory.

    Attributes:
        images: pixels 0..255.
        labels: class numbers 0..C-1.
        index: position of each image in the source split, so that an image can be named in a report.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    index: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def x(self, rows: Int64[Tensor, " m"] | slice | None = None) -> Float[Tensor, "m c h w"]:
        """Float32 images in [0, 1]: those at `rows` (positions in this split), or all of them."""
        chosen = self.images if rows is None else self.images[rows]
        return chosen.to(torch.float32) / 255

    def followed_by(self, other: "Split") -> "Split":
        """This split, and the images of `other` after it."""
        pairs = zip(
            (self.images, self.labels, self.index), (other.images, other.labels, other.index), strict=True
        )
        return Split(*(torch.cat(pair) for pair in pairs))

    def take(self, n: int, seed: int = 0) -> "Split":
        """A stratified subset of `n` images, in this split's order.

        Deterministic in `seed` and nested: for one seed, `take(10)` lies inside `take(20)`. Every class gets
        its share of `n`, rounded down or up.

        Raises:
            ConfigError: `n` is negative or larger than the split.
        """
        rows = _subset(self.labels, n, seed, "take: n")
        return Split(self.images[rows], self.labels[rows], self.index[rows])


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
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of all pixels and labels: the same name may stand for other files."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(bytes(split.images.contiguous().numpy()))
            digest.update(bytes(split.labels.contiguous().numpy()))
        if self.unlabeled is not None:
            digest.update(bytes(self.unlabeled.images.contiguous().numpy()))
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Source:
    """One split before its pixels are read.

    Attributes:
        labels: the class of every row.
        read: pixels of the given rows, (m,) -> (m, c, h, w) uint8 with c 1 or 3; raises `DataError`.
        where: the file or folder, as an error message names it.
        index: position of each row in the published split, where that is not simply its own position.
    """

    labels: Int64[Tensor, " n"]
    read: Callable[[Int64[Tensor, " m"]], UInt8[Tensor, "m c h w"]]
    where: str
    index: Int64[Tensor, " n"] | None = None

    def split(self, rows: Int64[Tensor, " m"]) -> Split:
        """Read `rows`."""
        return Split(self.read(rows), self.labels[rows], rows if self.index is None else self.index[rows])


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
        DataError: labels out of range, or images of two sizes.
    """
    for source in (sources.train, sources.test):
        _check_labels(source, len(sources.classes))
    rows = _limited(sources.train, train_limit, seed, "data.train_limit")
    pool = _beyond(sources.train, rows, unlabeled, seed)
    test_rows = _limited(sources.test, test_limit, seed, "data.test_limit")
    chosen, left = _validation_rows(sources.train.labels[rows], validation, seed)
    train, test = sources.train.split(rows[left]), sources.test.split(test_rows)
    validation_split = sources.train.split(rows[chosen]) if len(chosen) else _empty_like(train)
    more = [sources.train.split(pool)] if len(pool) else []
    train, validation_split, test, *more = _alike([train, validation_split, test, *more], sources)
    return Splits(train, validation_split, test, sources.classes, name, *more)


def stratified_order(labels: Int64[Tensor, " n"], generator: torch.Generator) -> Int64[Tensor, " n"]:
    """A random order of all rows in which every prefix is stratified.

    Among the first m rows each class appears its share of m times, rounded down or up, for every m at once:
    Tijdeman's chairman assignment (1980). The schedule is built by earliest deadline first (Steiner and
    Yeomans 1993): occurrence j of a class that makes up a share p of the data comes at a place in
    [floor(j / p), ceil((j + 1) / p)). Which image of the class it is, and which class goes first among
    equals, is drawn from `generator`.
    """
    n = len(labels)
    shuffled = torch.randperm(n, generator=generator)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    occurrence = torch.arange(n) - starts[labels[grouped]]
    size = sizes[labels[grouped]]
    release = occurrence * n // size
    deadline = ((occurrence + 1) * n + size - 1) // size
    tie = torch.randperm(n, generator=generator)
    jobs = list(zip(deadline.tolist(), tie.tolist(), grouped.tolist(), strict=True))
    coming = release.argsort(stable=True).tolist()
    released = release.sort().values.tolist()
    waiting: list[tuple[int, int, int]] = []
    order, arrived = [], 0
    for place in range(n):
        while arrived < n and released[arrived] <= place:
            heapq.heappush(waiting, jobs[coming[arrived]])
            arrived += 1
        order.append(heapq.heappop(waiting)[2])
    return torch.tensor(order, dtype=torch.int64)


def in_one_line(error: BaseException) -> str:
    """The message of a library, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _subset(labels: Tensor, n: int, seed: int, field: str) -> Tensor:
    """Rows of a stratified subset of `n`, ascending."""
    if not 0 <= n <= len(labels):
        raise ConfigError(f"{field}: found {n}, expected at most the {len(labels)} images that there are")
    return stratified_order(labels, noise.generator_for(seed, _SUBSET))[:n].sort().values


def _limited(source: Source, limit: int | None, seed: int, field: str) -> Tensor:
    if limit is None:
        return torch.arange(len(source.labels))
    if limit < 1:
        raise ConfigError(f"{field}: found {limit}, expected at least 1 image, or nothing for all of them")
    return _subset(source.labels, limit, seed, field)


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


def _validation_rows(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the validation images and of the images left for training, both ascending."""
    n = len(labels)
    if not 0 <= share < 1:
        raise ConfigError(
            f"data.validation: found {share}, expected a share of the training images in [0, 1)"
        )
    count = max(1, round(share * n)) if share else 0
    if count >= n:
        raise ConfigError(
            f"data.validation: found {share}, which leaves none of the {n} training images; lower it"
        )
    order = stratified_order(labels, noise.generator_for(seed, _VALIDATION))
    return order[:count].sort().values, order[count:].sort().values


def _check_labels(source: Source, classes: int) -> None:
    labels = source.labels
    if not len(labels):
        raise DataError(f"{source.where}: holds no images, expected at least one; is the split complete?")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{source.where}: labels run {low}..{high}, expected 0..{classes - 1} ({classes} classes); "
            f"renumber them, or name another label column"
        )


def _empty_like(split: Split) -> Split:
    return Split(split.images[:0], split.labels[:0], split.index[:0])


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
        else replace(split, images=split.images.repeat(1, channels, 1, 1))
        for split in splits
    ]
