"""Wide residual networks: Zagoruyko and Komodakis 2016 ("Wide residual networks")."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models.layers import conv, head, kaiming

ACTIVATIONS: dict[str, type[nn.ReLU] | type[nn.SiLU]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class WideBlock(nn.Module):
    """BatchNorm and ReLU (or SiLU) before each of two 3x3 convolutions, dropout between them.

    As in the authors' code, a block that changes the channels activates its input before the 1x1
    shortcut too. With `same_padding`, a convolution with stride 2 is padded at the right and the bottom only.
    """

    __qualname__ = "Block"  # in fingerprints, which older runs are bound to

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        dropout: float,
        activation: type[nn.ReLU] | type[nn.SiLU] = nn.ReLU,
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = activation(inplace=True)
        one_sided = same_padding and stride == 2
        self.conv1 = _one_sided(inputs, outputs) if one_sided else conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Residual plus shortcut; nothing follows the sum."""
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated))))) + shortcut


def wide_resnet(
    depth: int,
    widen: int,
    *,
    num_classes: int,
    in_channels: int,
    dropout: float = 0.0,
    activation: str = "relu",
    same_padding: bool = False,
) -> dict[str, nn.Module]:
    """WRN-`depth`-`widen`: three stages of (depth - 4) / 6 blocks with 16, 32, 64 times `widen` channels.

    Parameters for 3 channels and 10 classes: WRN-28-10 36,479,194, WRN-34-10 46,160,474. Weights start as
    in He et al. 2015 by fan-out.

    Args:
        depth: number of convolutions on the longest path, 6 n + 4.
        widen: factor on the channels.
        num_classes: number of logits.
        in_channels: channels of the image.
        dropout: probability between the two convolutions of a block (0: none).
        activation: "relu", or "silu" as in the networks of Gowal et al. 2020 ("Uncovering the limits of
            adversarial training"). The tensors are the same.
        same_padding: pad convolutions with stride 2 at the right and the bottom only, as those networks do
            (TensorFlow's "same" for even sizes).

    Raises:
        ModelError: `depth` is not 6 n + 4, or the activation is unknown.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ModelError(f"wide_resnet: found depth {depth}, expected 6 n + 4 (10, 16, 22, 28, 34, ...)")
    if activation not in ACTIVATIONS:
        raise ModelError(
            f"wide_resnet: found activation {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    kind = ACTIVATIONS[activation]
    layers: dict[str, nn.Module] = {"conv1": conv(in_channels, 16, 3)}
    inputs = 16
    for stage, (outputs, stride) in enumerate([(16 * widen, 1), (32 * widen, 2), (64 * widen, 2)], start=1):
        first = WideBlock(inputs, outputs, stride, dropout, kind, same_padding)
        others = (WideBlock(outputs, outputs, 1, dropout, kind) for _ in range(blocks - 1))
        layers[f"block{stage}"] = nn.Sequential(first, *others)
        inputs = outputs
    layers |= {"bn": nn.BatchNorm2d(inputs), "relu": kind(inplace=True)}
    return kaiming(layers | head(inputs, num_classes), "fan_out")


def _one_sided(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution with stride 2; its padding, right and bottom only, is a layer of its own."""
    layers = {"pad": nn.ZeroPad2d((0, 1, 0, 1)), "conv": nn.Conv2d(inputs, outputs, 3, 2, bias=False)}
    return nn.Sequential(OrderedDict(layers))
