"""A strided convolution of few channels, computed on patches of pixels, which costs less to differentiate."""

from typing import TypeGuard, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.layers import is_exactly

_FEW = 4  # input channels; with more, the layer is as fast as it is


class PatchConvolution(nn.Module):
    """A convolution of stride s > 1 as one of stride 1 on the s x s patches of its image.

    The same sums, in another order: a kernel of size k on c channels is one of size k / s on c s^2 channels.
    Libraries vectorise over channels, of which an image has one or three; on a CPU, the input gradient of
    the first layer of `small-cnn` takes two thirds of the time.

    Args:
        layer: fits (`fits`); its weights are read in every pass.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    @staticmethod
    def fits(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether a layer is such a convolution: torch's own, few channels in, a kernel of whole patches."""
        if not is_exactly(layer, nn.Conv2d) or isinstance(layer.padding, str):
            return False
        (side, other), (stride, down) = layer.kernel_size, layer.stride
        is_plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        is_whole = side == other and stride == down > 1 and side % stride == 0
        return is_plain and is_whole and layer.in_channels <= _FEW

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """The layer's output, but for rounding."""
        stride, (top, left) = self.layer.stride[0], cast(tuple[int, int], self.layer.padding)
        # Rows and columns beyond the last whole patch are in no kernel's reach: they are cut off.
        bottom, right = top - (x.shape[2] + 2 * top) % stride, left - (x.shape[3] + 2 * left) % stride
        patches = _patches(F.pad(x, (left, right, top, bottom)), stride)
        return F.conv2d(patches, F.pixel_unshuffle(self.layer.weight, stride), self.layer.bias)


def _patches(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n d i j"]:
    """As `F.pixel_unshuffle`, channels last: the gradient of that function takes three times as long."""
    n, c, h, w = x.shape
    cells = x.view(n, c, h // side, side, w // side, side).permute(0, 1, 3, 5, 2, 4)
    patches = cells.reshape(n, c * side**2, h // side, w // side)
    return patches.contiguous(memory_format=torch.channels_last)
