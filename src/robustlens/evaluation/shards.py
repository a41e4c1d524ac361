"""Shards of an evaluation: which images one of several processes attacks.

Images are cut into blocks, and each batch is of one block's survivors. So the batches, on whose sizes the
rounding of a network may depend, are the same in one process and in many.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from robustlens.errors import ConfigError

MOST_BLOCKS = 32
"""Blocks that images are cut into at most: more would share work more evenly, and fill batches less."""


@dataclass(frozen=True)
class Shard:
    """One of several parts of the images: every `of`-th block, from block `number` on.

    Args:
        number: of the part, from 0.
        of: parts that there are.

    Raises:
        ConfigError: there is no such part.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ConfigError(
                f"shard: found {self.number} of {self.of}, expected one from 0 to {self.of - 1}"
            )

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.of}"

    def blocks(self, images: int, batch_size: int) -> Iterator[tuple[int, int]]:
        """First row, and the row after the last one, of each block of this part, in order."""
        size = block_size(images, batch_size)
        for first in range(self.number * size, images, self.of * size):
            yield first, min(first + size, images)

    def rows(self, images: int, batch_size: int) -> Int64[Tensor, " rows"]:
        """Rows of this part, ascending."""
        blocks = [torch.arange(*block) for block in self.blocks(images, batch_size)]
        return torch.cat([torch.arange(0), *blocks])


def block_size(images: int, batch_size: int) -> int:
    """Images of a block: one full batch, or as many as leave no more than `MOST_BLOCKS` blocks."""
    return batch_size * max(1, math.ceil(images / (batch_size * MOST_BLOCKS)))


def block_count(images: int, batch_size: int) -> int:
    """Blocks that so many images are cut into."""
    return math.ceil(images / block_size(images, batch_size))
