"""Feature maps made into vectors: channel by channel, pixel by pixel, or averaged over their pixels."""

from typing import TypeGuard

from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.layers import is_exactly
from robustlens.models.small import FlattenMap

Flatten = FlattenMap | nn.Flatten


class FlattenPixels(nn.Module):
    """As a layer that flattens maps, but all channels of a pixel side by side.

    So they lie in memory already where convolutions keep channels last. The usual order copies each map, its
    gradient has another layout than the map, and torch's ReLU takes ten times as long with two layouts.

    Args:
        flatten: the layer.
    """

    def __init__(self, flatten: Flatten) -> None:
        super().__init__()
        self.flatten = flatten

    @staticmethod
    def fits(layer: nn.Module) -> TypeGuard[Flatten]:
        """Whether a layer makes a vector of the whole of each map."""
        if is_exactly(layer, nn.Flatten):
            return layer.start_dim == 1 and layer.end_dim in (-1, 3)
        return is_exactly(layer, FlattenMap)

    @staticmethod
    def reordered(weight: Float[Tensor, "k d"], channels: int) -> Float[Tensor, "k d"]:
        """The weight of the linear layer that is given the vectors, for maps of so many channels."""
        return weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Vectors of the same features, in another order."""
        maps = self.flatten.averaged(x) if isinstance(self.flatten, FlattenMap) else x
        return maps.permute(0, 2, 3, 1).flatten(1)


class AveragePixels(nn.Module):
    """As `nn.AdaptiveAvgPool2d(1)`, but the gradient of the maps has the channels of a pixel side by side.

    torch makes it channel by channel, and its ReLU takes ten times as long with two layouts.
    """

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer averages each map to one pixel."""
        return is_exactly(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1))

    def forward(self, x: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c 1 1"]:
        """Maps of one pixel."""
        return x.movedim(-3, -1).flatten(-3, -2).mean(-2)[..., None, None]
