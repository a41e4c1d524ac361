"""Augmentation against windows computed by hand and found by brute force."""

from collections import Counter

import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from helpers.data_files import refused
from robustlens import data
from robustlens.data import augment
from robustlens.errors import ConfigError


def test_a_window_of_the_padded_image_is_cut_and_mirrored_as_computed_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 1, 2, 2)
    down, right = torch.tensor([1, 0, 2, 1]), torch.tensor([1, 0, 1, 1])
    flipped = torch.tensor([False, False, True, True])
    window = augment._window(x, 1, down, right, flipped)
    assert window[:, 0].tolist() == [
        [[1, 2], [3, 4]],  # back where it was
        [[0, 0], [0, 1]],  # from the upper left corner: the image moves down and right
        [[4, 3], [0, 0]],  # one lower, mirrored
        [[2, 1], [4, 3]],  # in place, mirrored
    ]


def numbered(n: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    """Different images of distinct values, so that a window tells its place."""
    return torch.arange(1, n * channels * size * size + 1, dtype=torch.float32).view(n, channels, size, size)


def places(x: torch.Tensor, made: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Brute force: which of all windows and mirrors each result is."""
    size = x.shape[-1]
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    found = []
    for before, after in zip(padded, made, strict=True):
        for place in range(81 * 2):
            down, right, mirror = place // 18, place // 2 % 9, bool(place % 2)
            window = before[:, down : down + size, right : right + size]
            if torch.equal(window.flip(2) if mirror else window, after):
                found.append((down, right, mirror))
                break
    return found


def test_every_offset_and_both_mirrors_are_drawn_evenly() -> None:
    x = numbered(600, channels=1, size=6)
    made = augment.get("crop-flip")(x, torch.Generator().manual_seed(0))
    drawn = places(x, made)
    assert len(drawn) == len(x)
    for axis in (0, 1):
        counts = Counter(place[axis] for place in drawn)
        assert set(counts) == set(range(9))
        assert (
            sum((count - 600 / 9) ** 2 / (600 / 9) for count in counts.values()) < 26.1
        )  # chi2, 8 df, 0.1 %
    assert 240 < sum(place[2] for place in drawn) < 360
    assert len({place[:2] for place in drawn}) > 70  # rows, columns and mirrors are drawn apart
    assert len({place[::2] for place in drawn}) == len({place[1:] for place in drawn}) == 18


@pytest.mark.parametrize(
    ("name", "moves", "mirrors"), [("flip", False, True), ("crop", True, False), ("none", False, False)]
)
def test_each_augmentation_does_what_it_says(name: str, moves: bool, mirrors: bool) -> None:
    x = numbered(40)
    drawn = places(x, augment.get(name)(x, torch.Generator().manual_seed(1)))
    assert len(drawn) == 40
    assert any(place[:2] != (4, 4) for place in drawn) == moves
    assert any(place[2] for place in drawn) == mirrors


def test_the_draw_belongs_to_the_example_and_to_the_generators_state() -> None:
    x, both = numbered(12), augment.get("crop-flip")

    def draw(images: torch.Tensor, seed: int) -> torch.Tensor:
        return both(images, torch.Generator().manual_seed(seed))

    whole = draw(x, 7)
    assert torch.equal(draw(x[5:9], 7), whole[5:9])
    assert torch.equal(draw(x.flip(0), 7), whole.flip(0))
    assert not torch.equal(draw(x, 8), whole)
    assert torch.equal(both(x), both(x))
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(both(x, generator), both(x, generator))


def test_augmentation_keeps_shape_type_layout_and_the_global_random_state() -> None:
    state = torch.random.get_rng_state()
    for kind in (torch.float32, torch.bfloat16):
        x = torch.rand(4, 3, 6, 10, generator=torch.Generator().manual_seed(0)).to(kind)
        last = augment.get("crop-flip")(x.contiguous(memory_format=torch.channels_last))
        first = augment.get("crop-flip")(x)
        assert torch.equal(first, last)
        assert first.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert (first.shape, first.dtype) == (x.shape, kind)
    assert len(augment.get("crop-flip")(x[:0])) == 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_defaults_are_the_fields_and_unknown_data_is_left_alone() -> None:
    chosen = {name: augment.default_for(name) for name in data.DATASETS}
    assert chosen == {
        "fashion-mnist-10k": "none",
        "cifar10": "crop-flip",
        "cifar100": "crop-flip",
        "svhn": "crop",
        "mnist": "none",
        "fashion_mnist": "none",
        "tiny_imagenet": "crop-flip",
    }
    assert augment.default_for("folder:somewhere") == "none"
    refused(
        r"data\.augment: found 'mixup', expected one of none, flip, crop, crop-flip, cutout, flip-cutout, "
        "crop-cutout, crop-flip-cutout",
        lambda: augment.get("mixup"),
        ConfigError,
    )


def test_a_hole_is_a_square_around_its_centre_as_far_as_it_is_inside() -> None:
    x = torch.zeros(3, 2, 4, 5)
    hole = augment._hole(x, 2, torch.tensor([2, 0, 3]), torch.tensor([3, 0, 4]))
    assert hole.int()[:, 0].tolist() == [
        [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
        [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],  # three quarters fall outside
        [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]],
    ]
    odd = augment._hole(x[:1], 3, torch.tensor([1]), torch.tensor([2]))
    assert odd.int()[0, 0].tolist() == [[0, 1, 1, 1, 0]] * 3 + [[0] * 5]


def test_cutout_blackens_one_square_of_each_image_and_nothing_else() -> None:
    x = numbered(500, size=20)
    made = augment.get("cutout")(x, torch.Generator().manual_seed(0))
    black = made == 0
    assert torch.equal(torch.where(black, 0.0, x), made)
    assert torch.equal(black, black[:, :1].expand_as(black))
    tall, wide = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(black[:, 0].sum((1, 2)), tall * wide)  # a rectangle
    assert tall.max() == wide.max() == 16
    assert tall.min() == wide.min() == 8  # centred on a corner
    centres = augment.Augmentation(cutout=1)(x, torch.Generator().manual_seed(0)) == 0
    for axis in (1, 2):  # each row and column is a centre equally often
        counts = centres[:, 0].any(3 - axis).sum(0)
        assert ((counts - 25) ** 2 / 25).sum() < 43.8  # chi2, 19 df, 0.1 %


def test_cutout_comes_on_top_of_the_same_crop_and_flip() -> None:
    x = numbered(50, size=32)
    whole, cut = (
        augment.get(n)(x, torch.Generator().manual_seed(0)) for n in ("crop-flip", "crop-flip-cutout")
    )
    kept = cut != 0
    assert torch.equal(cut[kept], whole[kept])
    assert not torch.equal(cut, whole)
    rows = slice(7, 20)
    part = augment.get("crop-flip-cutout")(x[rows], torch.Generator().manual_seed(0))
    assert torch.equal(part, cut[rows])


def mixed(n: int = 6, alpha: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Constant images of brightness 0, 1, 2 ... of a class each, mixed; and the share of each in each result."""
    x = torch.arange(n).float()[:, None, None, None].expand(n, 1, 2, 2)
    made, labels = augment.mixup(x, torch.arange(n), n, alpha, torch.Generator().manual_seed(seed))
    return x, made, labels


def test_mixup_blends_images_and_labels_by_the_same_shares() -> None:
    x, made, labels = mixed()
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    torch.testing.assert_close(made, torch.einsum("ij,jchw->ichw", labels, x))
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    partner = torch.randperm(6, generator=generator)  # lam is uniform for alpha 1
    lam = torch.tensor(uniform).float()
    torch.testing.assert_close(labels, lam * torch.eye(6) + (1 - lam) * F.one_hot(partner, 6))


@pytest.mark.parametrize("alpha", [0.2, 1.4])
def test_the_share_of_mixup_is_drawn_from_its_beta_distribution(alpha: float) -> None:
    first = [mixed(alpha=alpha, seed=seed)[2] for seed in range(400)]
    shares = [label.diagonal().min().item() for label in first if label.diagonal().min() < 1]
    assert scipy.stats.kstest(shares, "beta", args=(alpha, alpha)).pvalue > 0.001


def test_mixup_is_a_function_of_its_generator_and_leaves_its_inputs_alone() -> None:
    state = torch.random.get_rng_state()
    x, made, labels = mixed()
    assert torch.equal(made, mixed()[1])
    assert not torch.equal(labels, mixed(seed=1)[2])
    assert torch.equal(x[:, 0, 0, 0], torch.arange(6.0))
    assert torch.equal(torch.random.get_rng_state(), state)
    one, label = augment.mixup(x[3:4], torch.tensor([3]), 6, 1.0, torch.Generator())
    assert torch.equal(one, x[3:4])
    torch.testing.assert_close(label, torch.eye(6)[3:4])
    refused("mixup: found 0.0, expected a finite number > 0", lambda: mixed(alpha=0.0), ConfigError)
