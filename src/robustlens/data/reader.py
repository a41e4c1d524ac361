"""Float images of a split for functions that go through them batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from robustlens.data.splits import Split


@dataclass(frozen=True, eq=False)
class SplitReader:
    """Images of a packed split as float32 in [0, 1], read when asked for.

    It has the methods of a tensor (n, c, h, w) that `evaluate` and the measures use (`models.inputs.Reader`).
    """

    images: Split

    @property
    def shape(self) -> torch.Size:
        """Images, channels, height and width."""
        return torch.Size((len(self.images), *self.images.shape))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Int64[Tensor, " m"] | slice) -> Float[Tensor, "m c h w"]:
        return self.images.x(rows)

    def split(self, size: int) -> Iterator[Float[Tensor, "m c h w"]]:
        """Batches of `size` images, the last one of what is left."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def select(self, rows: Int64[Tensor, " m"] | slice) -> "SplitReader":
        """A reader of the images at `rows`."""
        return SplitReader(self.images.at(rows))

    def digest(self) -> bytes:
        """Digests of all images, one after another."""
        return self.images.images.digests.tobytes() + str(self.images.crop).encode()


def readable(split: Split) -> Any:
    """Float images of a split: a tensor where they are in memory, and otherwise a reader of them."""
    return SplitReader(split) if split.is_packed else split.x()
