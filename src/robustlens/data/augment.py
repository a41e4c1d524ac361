"""Augmentation on float batches: random crop and horizontal flip, drawn for each example.

The draw belongs to the example, as in `robustlens.noise`: it is a hash of the image's content and of one
number taken from the generator, so it does not depend on the batch, its order or the device. Another state of
the generator (another epoch or step) gives another draw.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor

from robustlens import noise
from robustlens.data.hub import DATASETS
from robustlens.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """Zero padding, a random crop back to size and, with `flip`, a mirror image half of the time.

    The field's CIFAR recipe (He et al. 2016, section 4.2): padding 4 and flip.
    """

    padding: int = 0
    flip: bool = False

    def __call__(
        self, x: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Augmented images, same shape, type and memory format.

        Args:
            x: images in [0, 1].
            generator: one number is drawn from it for the batch; without one, the draw is a fixed function of
                each image.
        """
        if not len(x) or not (self.padding or self.flip):
            return x
        draw = noise.uniform(
            noise.keys(x, noise.seed_from(generator)), x.new_empty(len(x), 3, dtype=torch.float32)
        )
        choices = 2 * self.padding + 1
        down, right = (draw[:, :2] * choices).long().clamp_max(choices - 1).unbind(1)
        return _window(x, self.padding, down, right, (draw[:, 2] < 0.5) & self.flip)


AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(flip=True),
    "crop": Augmentation(padding=4),
    "crop-flip": Augmentation(padding=4, flip=True),
}


def get(name: str) -> Augmentation:
    """The registered augmentation; raises `ConfigError` with the known names otherwise."""
    if name not in AUGMENTATIONS:
        raise ConfigError(f"data.augment: found {name!r}, expected one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


def default_for(name: str) -> str:
    """The field's augmentation for a data set, e.g. "crop-flip" for cifar10; "none" where there is no custom.

    Digits are never flipped, and unknown data is left alone: a flip may change what an image means.

    >>> default_for("cifar10"), default_for("svhn"), default_for("fashion-mnist-10k")
    ('crop-flip', 'crop', 'none')
    """
    return DATASETS[name].augmentation if name in DATASETS else "none"


def _window(x: Tensor, padding: int, down: Tensor, right: Tensor, flipped: Tensor) -> Tensor:
    """The window at (down, right) of each zero-padded image, mirrored where `flipped`; one gather."""
    height, width = x.shape[2:]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(len(x), width)
    columns = right[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    example = torch.arange(len(x), device=x.device)[:, None, None]
    window = padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return window.contiguous(memory_format=layout)
