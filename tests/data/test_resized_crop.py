"""Random resized crop: Pillow's pixels, torchvision's distribution, draws that belong to the position."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from robustlens import noise
from robustlens.data import augment
from robustlens.data.resized_crop import RandomResizedCrop


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (0.01, 0.05)])
def test_each_image_is_its_own_window_resized_and_mirrored(scale):
    x = torch.rand(12, 3, 40, 30)
    crop, rows = RandomResizedCrop(24, scale), torch.arange(12)
    made = crop(x, generator(), rows)
    assert made.shape == (12, 3, 24, 24)
    keys = noise.fold(noise.fold(rows, 0), noise.seed_from(generator()))
    windows = zip(*(values.tolist() for values in crop.windows(keys, 40, 30)), strict=True)
    for image, own, (top, left, tall, wide, mirrored) in zip(x, made, windows, strict=True):
        window = image[None, :, top : top + tall, left : left + wide]
        expected = functional.interpolate(window, (24, 24), mode="bilinear", antialias=True)[0]
        expected = expected.flip(2) if mirrored else expected
        torch.testing.assert_close(own, expected.clamp(0, 1), atol=2e-6, rtol=0)


def test_the_filter_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    whole = RandomResizedCrop(20, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    expected = np.asarray(Image.fromarray(pixels).resize((20, 20), Image.Resampling.BILINEAR))
    made = (whole(x, rows=torch.tensor([3]))[0].permute(1, 2, 0) * 255).numpy()
    assert np.abs(made - expected).max() < 1.01  # Pillow rounds to whole levels, twice


def test_windows_are_inside_and_drawn_as_the_paper_says():
    crop = RandomResizedCrop()
    top, left, tall, wide, mirrored = crop.windows(noise.fold(torch.arange(20000), 1), 256, 256)
    assert int(top.min()) >= 0
    assert int(left.min()) >= 0
    assert int((top + tall).max()) <= 256
    assert int((left + wide).max()) <= 256
    area, ratio = (tall * wide) / 256**2, (wide / tall).double().log()
    assert 0.07 < float(area.min()) < 0.09
    assert float(area.max()) <= 1
    assert float(ratio.abs().max()) < math.log(4 / 3) + 0.02
    assert abs(float(ratio.mean())) < 0.01  # of a uniform logarithm
    # Of uniform areas, those whose window does not fit are drawn again: the mean stays below a half.
    accepted = _torchvision_areas(4000)
    assert float(area.mean()) == pytest.approx(float(accepted.mean()), abs=0.02)
    assert float(area.std()) == pytest.approx(float(accepted.std()), abs=0.02)
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.015)
    centre = (top + tall / 2).mean(), (left + wide / 2).mean()
    assert [float(place) for place in centre] == pytest.approx([128, 128], abs=1.5)


def _torchvision_areas(n: int) -> torch.Tensor:
    """Areas of `n` windows, drawn one by one as torchvision's get_params draws them."""
    drawn, areas = np.random.default_rng(0), []
    for _ in range(n):
        for _ in range(10):
            area = drawn.uniform(0.08, 1.0) * 256 * 256
            ratio = math.exp(drawn.uniform(math.log(3 / 4), math.log(4 / 3)))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= 256 and 0 < tall <= 256:
                break
        else:
            wide = tall = 256
        areas.append(wide * tall / 256**2)
    return torch.tensor(areas)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(9, 90, (9, 12)), (90, 9, (12, 9)), (20, 20, (20, 20))]
)
def test_where_no_window_fits_the_largest_in_the_middle_is_taken(height, width, expected):
    crop = RandomResizedCrop(scale=(4.0, 5.0))  # larger than the image
    top, left, tall, wide, _ = crop.windows(noise.fold(torch.arange(3), 0), height, width)
    assert {(int(a), int(b)) for a, b in zip(tall, wide, strict=True)} == {expected}
    assert (int(top[0]), int(left[0])) == ((height - expected[0]) // 2, (width - expected[1]) // 2)


def test_the_draw_belongs_to_the_position_and_not_to_the_batch():
    x, rows = torch.rand(8, 3, 16, 16), torch.tensor([5, 900, 31, 2, 77, 8, 123456, 0])
    crop = augment.get("resized-crop-flip", 12)
    whole = crop(x, generator(4), rows)
    order = torch.tensor([6, 1, 3])
    assert torch.equal(crop(x[order], generator(4), rows[order]), whole[order])
    assert not torch.equal(crop(x, generator(5), rows), whole)
    same = x[:1].expand(8, -1, -1, -1)
    assert len({tuple(image.flatten().tolist()) for image in crop(same, generator(4), rows)}) == 8
    by_pixels = crop(x, generator(4))  # without positions the image's content is the key
    assert torch.equal(crop(x[order], generator(4)), by_pixels[order])


def test_names_and_sizes():
    x = torch.rand(2, 1, 10, 14)
    assert augment.get("resized-crop")(x).shape == x.shape
    assert augment.get("resized-crop", 5)(x).shape == (2, 1, 5, 5)
    assert augment.get("crop-flip", 5)(x).shape == x.shape
    assert not augment.get("resized-crop").flip
    made = augment.get("resized-crop", 5)(torch.ones(4, 3, 9, 9))
    assert float(made.max()) <= 1
    assert float(made.min()) > 0.999
