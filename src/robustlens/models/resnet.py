"""The CIFAR ResNets of He et al. 2016 ("Deep residual learning for image recognition", section 4.2)."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models.layers import conv, head, kaiming


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (the paper's option A).

    Where the size halves and the channels double, the shortcut takes every second pixel and fills the new
    channels with zeros: behind the old ones, or half before and half behind with `centred`.
    """

    __qualname__ = "Block"  # in fingerprints, which older runs are bound to

    def __init__(
        self, inputs: int, outputs: int, stride: int, centred: bool = False, batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        before = (outputs - inputs) // 2 if centred else 0
        self.new_channels = (before, outputs - inputs - before)
        self.conv1 = conv(inputs, outputs, 3, stride, bias=not batch_norm)
        self.bn1 = _norm(outputs, batch_norm)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3, bias=not batch_norm)
        self.bn2 = _norm(outputs, batch_norm)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Residual plus shortcut, rectified."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.stride != 1 or any(self.new_channels):
            x = F.pad(every_pixel(self.stride, x), (0, 0, 0, 0, *self.new_channels))
        return self.relu2(residual + x)

    def extra_repr(self) -> str:
        """Settings that no layer of the block shows, for `print(model)` and its fingerprint."""
        return f"stride={self.stride}, new_channels={self.new_channels}"


def every_pixel(stride: int, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
    """Every `stride`-th pixel of each row and column; its gradient lies in memory as `x` does.

    torch makes the gradient of a slice in the order of the sides as they are named, and all that is done with
    gradients of two orders takes several times as long.
    """
    if x.stride(1) == 1:  # the channels of a pixel lie side by side
        return x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)
    return x[:, :, ::stride, ::stride]


def resnet(
    depth: int,
    *,
    num_classes: int,
    in_channels: int,
    width: int = 16,
    centred: bool = False,
    batch_norm: bool = True,
) -> dict[str, nn.Module]:
    """A CIFAR ResNet of `depth` = 6 n + 2 layers: three stages of n blocks at 1, 2, 4 times `width` channels.

    Parameters for 3 channels and 10 classes: ResNet-20 269,722, ResNet-56 853,018, ResNet-110 1,727,962.
    Weights start as in He et al. 2015 by fan-out. Without BatchNorm, whose scale hides that of the weights,
    every convolution has a bias and the blocks start as in `_start_at_shortcuts`.

    Args:
        depth: number of layers with weights, 6 n + 2.
        num_classes: number of logits.
        in_channels: channels of the image.
        width: channels of the first stage.
        centred: put the old channels in the middle of the new ones, as a widely used PyTorch version does
            (akamaster's pytorch_resnet_cifar10). The tensors are the same.
        batch_norm: normalise after every convolution.

    Raises:
        ModelError: `depth` is not 6 n + 2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ModelError(f"resnet: found depth {depth}, expected 6 n + 2 (8, 14, 20, ...)")
    layers: dict[str, nn.Module] = {
        "conv1": conv(in_channels, width, 3, bias=not batch_norm),
        "bn1": _norm(width, batch_norm),
        "relu": nn.ReLU(inplace=True),
    }
    inputs = width
    for stage, (outputs, stride) in enumerate([(width, 1), (2 * width, 2), (4 * width, 2)], start=1):
        first = BasicBlock(inputs, outputs, stride, centred, batch_norm)
        layers[f"layer{stage}"] = nn.Sequential(
            first, *(BasicBlock(outputs, outputs, 1, batch_norm=batch_norm) for _ in range(blocks - 1))
        )
        inputs = outputs
    layers = kaiming(layers | head(inputs, num_classes), "fan_out")
    if not batch_norm:
        _start_at_shortcuts(layers)
    return layers


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


@torch.no_grad()
def _start_at_shortcuts(layers: dict[str, nn.Module]) -> None:
    """Start residual branches so that a network without normalisation trains at usual rates.

    After Fixup (Zhang, Dauphin and Ma 2019, section 3): the last convolution of each branch starts at zero,
    so that the network begins as its shortcuts, and the first is scaled by (number of blocks)^-1/2. Where we
    differ: plain biases in place of Fixup's scalar ones, no scalar multipliers, which would be a part of the
    layers' spectra that no layer shows, and a classifier at a tenth of its start, not at zero.
    """
    blocks = [
        block for layer in layers.values() for block in layer.modules() if isinstance(block, BasicBlock)
    ]
    for block in blocks:
        block.conv1.weight.div_(math.sqrt(len(blocks)))
        block.conv2.weight.zero_()
    classifier = layers["linear"]
    assert isinstance(classifier, nn.Linear)
    classifier.weight.mul_(0.1)
