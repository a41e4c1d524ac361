"""PreActResNet-18, the field's workhorse: He et al. 2016 ("Identity mappings in deep residual networks")."""

from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.layers import conv, head, kaiming


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions.

    Where size or channels change, the shortcut is a 1x1 convolution of the *activated* input, or of the
    input itself with `raw_shortcut`.
    """

    __qualname__ = "Block"  # in fingerprints, which older runs are bound to

    def __init__(self, inputs: int, outputs: int, stride: int, raw_shortcut: bool = False) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Residual plus shortcut; nothing follows the sum."""
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else activated)
        return self.conv2(self.relu2(self.bn2(self.conv1(activated)))) + shortcut

    def extra_repr(self) -> str:
        """Settings that no layer of the block shows, for `print(model)` and its fingerprint."""
        return f"raw_shortcut={self.raw_shortcut}"


def preact_resnet18(
    *,
    num_classes: int,
    in_channels: int,
    final_norm: bool = False,
    raw_shortcut: bool = False,
    width: int = 64,
) -> dict[str, nn.Module]:
    """PreActResNet-18 for 32x32 images: 11,171,146 parameters for 3 channels and 10 classes.

    Four stages of two blocks with 64, 128, 256, 512 channels. Weights start as in He et al. 2015 by fan-out.

    Args:
        num_classes: number of logits.
        in_channels: channels of the image.
        final_norm: BatchNorm and ReLU after the last block, as in He et al. 2016 and the AWP authors' code
            (11,172,170 parameters). Off by default, as in the network that most robust-training code shares.
        raw_shortcut: where a block changes the size, project its input and not its activation, as in the
            networks of Wong et al. 2020 ("Fast is better than free"). The tensors are the same.
        width: channels of the first stage; each of the others has twice as many as the one before.
    """
    layers: dict[str, nn.Module] = {"conv1": conv(in_channels, width, 3)}
    inputs = width
    for stage, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
        outputs = factor * width
        layers[f"layer{stage}"] = nn.Sequential(
            PreActBlock(inputs, outputs, stride, raw_shortcut), PreActBlock(outputs, outputs, 1)
        )
        inputs = outputs
    if final_norm:
        layers |= {"bn": nn.BatchNorm2d(inputs), "relu": nn.ReLU(inplace=True)}
    return kaiming(layers | head(inputs, num_classes), "fan_out")
