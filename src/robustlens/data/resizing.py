"""Images resized as the field does it for ImageNet: by their shorter side, and of that the middle square."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from robustlens.data.sizes import LARGEST_ALONE
from robustlens.data.splits import middle

_THIN = 8  # times as long as wide: an image that is longer is resized whole only up to `LARGEST_ALONE` pixels


def resized(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "size size c"]:
    """The middle square of an image whose shorter side is resized to `size`, bilinear and antialiased."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short != size:
        wanted = (max(size, round(width * size / short)), max(size, round(height * size / short)))
        grey = image.shape[2] == 1
        picture = Image.fromarray(image[:, :, 0] if grey else image)
        if math.prod(wanted) > max(LARGEST_ALONE, _THIN * size**2):
            image = np.asarray(_resized_middle(picture, wanted, size))
        else:
            image = np.asarray(picture.resize(wanted, Image.Resampling.BILINEAR))
        image = image[:, :, None] if grey else image
    return middle(image, size)


def _resized_middle(picture: Image.Image, wanted: tuple[int, int], size: int) -> Image.Image:
    """The middle square of the image as `wanted` large, which is not made: it may not fit in memory.

    Pixels differ by 1 at most from those of the whole one: Pillow keeps the corners of a box in float32.
    """
    scales = [side / large for side, large in zip(picture.size, wanted, strict=True)]
    left, top = ((large - size) // 2 * scale for large, scale in zip(wanted, scales, strict=True))
    box = (left, top, left + size * scales[0], top + size * scales[1])
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
