"""Random resized crop: a window of random size and shape, resized; the field's augmentation of ImageNet."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from robustlens import noise
from robustlens.errors import DataError
from robustlens.machine import float32_products

_ATTEMPTS = 10  # at a window that fits, as in Inception's code and torchvision


@dataclass(frozen=True)
class RandomResizedCrop:
    """A window with `scale` of the area and `ratio` of width to height, resized, and half of them mirrored.

    Szegedy et al. 2015 ("Going deeper with convolutions", section 6), drawn as torchvision draws it: an area
    and the logarithm of a ratio, ten times if need be, then the largest window in the middle. It is resized
    by Pillow's antialiased bilinear filter, in float32. The draw belongs to the image's place in the training
    set, where `rows` says it, so it depends neither on the batch nor on the device.

    Attributes:
        size: side of the images that it returns; None: as high and wide as it is given.
        flip: mirror half of the images.
    """

    size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    takes_whole_images = True  # a split's `crop` is what this makes, not what it is given
    by_example = True

    def __call__(
        self,
        x: Float[Tensor, "n c h w"],
        generator: torch.Generator | None = None,
        rows: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n c _ _"]:
        """Images (n, c, size, size) in [0, 1].

        Args:
            x: images in [0, 1].
            generator: one number is drawn from it for the batch.
            rows: position of each image in the training set; None: the draw is keyed by the pixels.

        Raises:
            DataError: the images are smaller than one pixel a side.
        """
        if 0 in x.shape[2:]:
            raise DataError(f"augment: found images of shape {tuple(x.shape[1:])}, expected some pixels")
        height, width = x.shape[2:]
        seed = noise.seed_from(generator)
        keys = noise.keys(x, seed).cpu() if rows is None else noise.fold(noise.fold(rows.cpu(), 0), seed)
        top, left, tall, wide, mirrored = self.windows(keys, height, width)
        out_height, out_width = (height, width) if self.size is None else (self.size, self.size)
        down = _filter(top, tall, height, out_height, torch.zeros_like(mirrored), x.device)
        across = _filter(left, wide, width, out_width, mirrored, x.device)
        with float32_products():
            resized = down[:, None] @ x @ across[:, None].transpose(2, 3)
        return resized.clamp(0.0, 1.0)

    def windows(self, keys: Int64[Tensor, " n"], height: int, width: int) -> tuple[Tensor, ...]:
        """Top, left, height and width of each image's window, and whether it is mirrored; (n,) each.

        On the CPU, in float64: another device may round a logarithm otherwise.
        """
        draw = noise.uniform(keys, torch.empty(len(keys), 2 * _ATTEMPTS + 3)).double()
        area = self.scale[0] + draw[:, :_ATTEMPTS] * (self.scale[1] - self.scale[0])
        low, high = (math.log(end) for end in self.ratio)
        ratio = torch.exp(low + draw[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low))
        wide = (area * height * width * ratio).sqrt().round().long()
        tall = (area * height * width / ratio).sqrt().round().long()
        fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
        first = fits.long().argmax(1, keepdim=True)
        middle_tall, middle_wide = self._middle(height, width)
        tall = torch.where(fits.any(1), tall.gather(1, first)[:, 0], middle_tall)
        wide = torch.where(fits.any(1), wide.gather(1, first)[:, 0], middle_wide)
        down, right, mirror = draw[:, -3:].unbind(1)
        top = torch.where(fits.any(1), (down * (height - tall + 1)).long(), (height - tall) // 2)
        left = torch.where(fits.any(1), (right * (width - wide + 1)).long(), (width - wide) // 2)
        return top, left, tall, wide, (mirror < 0.5) & self.flip

    def _middle(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the largest window of a ratio that is allowed."""
        low, high = self.ratio
        if width / height < low:
            return min(height, round(width / low)), width
        return (height, min(width, round(height * high))) if width / height > high else (height, width)


def _filter(
    start: Tensor, length: Tensor, side: int, out: int, mirrored: Tensor, device: torch.device
) -> Float[Tensor, "n out side"]:
    """Weights of the pixels of one axis in each pixel of the resized window: a triangle around its centre."""
    start, length = (values.to(device, torch.float32)[:, None] for values in (start, length))
    step = length / out
    place = torch.arange(out, device=device, dtype=torch.float32).expand(len(start), out)
    place = torch.where(mirrored.to(device)[:, None], out - 1 - place, place)
    centre = start + (place + 0.5) * step
    pixel = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    reach = step.clamp_min(1.0)[:, :, None]
    weight = (1.0 - (pixel - centre[:, :, None]).abs() / reach).clamp_min(0.0)
    weight = weight * ((pixel > start) & (pixel < start + length))[:, None, :]
    return weight / weight.sum(2, keepdim=True)
