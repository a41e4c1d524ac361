"""Normalisation as a layer, so that attacks work on the pixels that a camera would give."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError


class Normalize(nn.Module):
    """`(x - mean) / std` per channel.

    `mean` and `std` are buffers: they follow the model to another device and into its weights file, and no
    optimizer moves them.

    Args:
        mean: one value per channel, in pixel units ([0, 1]).
        std: one positive value per channel, in pixel units.

    Raises:
        ModelError: lengths differ, a value is not finite, or a std is not positive; in `forward`, the
            number of channels is not the one given here (broadcasting would hide it).

    >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ModelError(
                f"normalize: found {len(mean)} means and {len(std)} stds, expected one of each a channel"
            )
        centre, scale = torch.tensor([list(mean), list(std)], dtype=torch.float32)
        if not (bool(centre.isfinite().all() & scale.isfinite().all()) and bool((scale > 0).all())):
            raise ModelError(
                f"normalize: found mean {list(mean)}, std {list(std)}, expected finite values and std > 0"
            )
        self.register_buffer("mean", centre.view(1, -1, 1, 1))
        self.register_buffer("std", scale.view(1, -1, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise a batch of images."""
        if x.shape[1] != self.mean.shape[1]:
            raise ModelError(
                f"model: found images with {x.shape[1]} channels, expected {self.mean.shape[1]}; "
                "build the model with in_channels of the data"
            )
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Statistics, for `print(model)`."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
