"""Windows of an image, and the bumps that a window may have: the geometry of the Square attack."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The pixels of an image in one row: channel by channel, line by line."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> "Grid":
        """The grid of an image of this shape; an image that is one pixel high or wide is a line."""
        *channels, height, width = shape if len(shape) > 2 else (*shape[:-1], 1, shape[-1])
        if width == 1:
            height, width = width, height
        return cls(math.prod(channels), height, width)

    def side(self, share: float) -> int:
        """The side of a window that covers this share of the image."""
        return round(share * self.width if self.height == 1 else math.sqrt(share * self.height * self.width))

    def window(self, side: int) -> tuple[int, int]:
        """Height and width of a window of this side, or of the largest that fits."""
        if self.height == 1:
            return 1, min(side, self.width)
        return (min(side, self.height, self.width),) * 2

    def cells(self, window: tuple[int, int], device: torch.device) -> Int64[Tensor, " cells"]:
        """The pixels of the window in the top left corner, in all channels."""
        pixels = torch.arange(self.channels * self.height * self.width, device=device)
        return pixels.view(self.channels, self.height, self.width)[:, : window[0], : window[1]].flatten()

    def anywhere(self, u: Float[Tensor, "n 2"], window: tuple[int, int]) -> Int64[Tensor, "n 1"]:
        """The top left pixel of a window that lies anywhere, from two uniform numbers."""
        top = (u[:, :1] * (self.height - window[0] + 1)).long()
        left = (u[:, 1:] * (self.width - window[1] + 1)).long()
        return top * self.width + left

    def around(self, pixel: Int64[Tensor, "n 1"], window: tuple[int, int]) -> Int64[Tensor, "n 1"]:
        """The top left pixel of the window whose middle is as near to `pixel` as it gets."""
        within = pixel % (self.height * self.width)
        top = (within // self.width - window[0] // 2).clamp(0, self.height - window[0])
        left = (within % self.width - window[1] // 2).clamp(0, self.width - window[1])
        return top * self.width + left


def bumps_of(window: tuple[int, int], power: int, device: torch.device) -> Float[Tensor, "turns pixels"]:
    """A bump beside a hole in a window, of norm 1: side by side, and in a square one above the other too."""
    height, width = window
    halves = [_bump(width // 2, height, power), -_bump(width - width // 2, height, power)]
    pair = torch.cat(halves).T
    turns = [pair, pair.T] if height == width > 1 else [pair]
    return torch.stack([turn.flatten() / turn.norm(power) for turn in turns]).to(device)


def _bump(height: int, width: int, power: int) -> Float[Tensor, "height width"]:
    """Squares about the middle, added up: the kth from within is 1/k^2 high in L2, 1/k^4 in L1."""
    down, across = (torch.arange(size) - size // 2 for size in (height, width))
    distance = torch.maximum(down.abs()[:, None], across.abs()[None])
    count = max(height // 2, width // 2) + 1
    steps = torch.arange(count, 0, -1, dtype=torch.float64).pow(-4 / power)
    bump = steps.cumsum(0).flip(0)[distance]
    return bump / bump.norm(power)
