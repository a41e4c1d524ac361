"""Augmentation on float batches: crop, horizontal flip and cutout, drawn for each example; mixup of a batch.

The draw belongs to the example, as in `robustlens.noise`: it is a hash of the image's content and of one
number taken from the generator, so it does not depend on the batch, its order or the device. Another state of
the generator (another epoch or step) gives another draw. Mixup pairs the images of a batch, and so is the
exception.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from robustlens import noise
from robustlens.config import DataSpec
from robustlens.data.registry import DATASETS
from robustlens.data.resized_crop import RandomResizedCrop
from robustlens.errors import ConfigError, RobustlensError, out_of_memory
from robustlens.registry import Registry, one_line

_ROUNDING = 1e-3  # by which a pixel may leave [0, 1], a quarter of a step of 8 bits: interpolation rounds


@runtime_checkable
class Augment(Protocol):
    """A function of batches: images in [0, 1] to images of the same shape."""

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augmented images."""


@dataclass(frozen=True)
class Augmentation:
    """Zero padding, a random crop back to size, with `flip` a mirror image half of the time, and a hole.

    The field's CIFAR recipe (He et al. 2016, section 4.2): padding 4 and flip. The hole is a square of side
    `cutout`, black, in each image (DeVries and Taylor 2017): its centre is any pixel, so part of it may fall
    outside. They cut after normalisation, where zero is the mean colour.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0
    by_example = True  # what is drawn for an image depends on no other image

    def __call__(
        self, x: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Augmented images, same shape, type and memory format.

        Args:
            x: images in [0, 1].
            generator: one number is drawn from it for the batch; without one, the draw is a fixed function of
                each image.
        """
        if not len(x) or not (self.padding or self.flip or self.cutout):
            return x
        draw = noise.uniform(
            noise.keys(x, noise.seed_from(generator)), x.new_empty(len(x), 5, dtype=torch.float32)
        )
        if self.padding or self.flip:
            down, right = (_choice(draw[:, place], 2 * self.padding + 1) for place in (0, 1))
            x = _window(x, self.padding, down, right, (draw[:, 2] < 0.5) & self.flip)
        if self.cutout:
            row, column = (_choice(draw[:, 1 + axis], x.shape[axis]) for axis in (2, 3))
            x = x.masked_fill(_hole(x, self.cutout, row, column), 0.0)
        return x


@dataclass(frozen=True)
class OwnAugmentation:
    """An augmentation of the user's, whose images are looked at: networks take any size, and train on it.

    Attributes:
        name: "package.module:factory", for messages.
        function: what the factory returned. Where it says so in an attribute `by_example`, what it draws for
            an image depends on no other one; where in `takes_whole_images`, it is given whole images and
            `rows=`, as `RandomResizedCrop` is.
        size: side of the images that it makes of whole ones; None: that of what it is given.
    """

    name: str
    function: Augment
    size: int | None = None

    @property
    def by_example(self) -> bool:
        """Whether what is drawn for an image depends on no other image."""
        return getattr(self.function, "by_example", False)

    @property
    def takes_whole_images(self) -> bool:
        """Whether it is given images before their crop."""
        return getattr(self.function, "takes_whole_images", False)

    def __call__(
        self, x: Float[Tensor, "n c h w"], generator: torch.Generator | None = None, **rows: Tensor
    ) -> Float[Tensor, "n c _ _"]:
        """Augmented images, of the type, the shape and on the device of `x`.

        Raises:
            ConfigError: it fails, or returns something else.
        """
        try:
            made = self.function(x, generator, **rows)
        except RobustlensError:
            raise
        except (Exception, SystemExit) as problem:  # code of the user's can raise anything
            if out_of_memory(problem):
                raise
            raise ConfigError(
                f"data.augment {self.name!r}: failed ({one_line(problem)}); mend it: it is called with "
                "images in [0, 1] and a generator"
            ) from problem
        sides = x.shape[2:] if self.size is None else (self.size, self.size)
        expected = _kind(x.dtype, (*x.shape[:2], *sides), x.device)
        returned = (
            _kind(made.dtype, made.shape, made.device) if isinstance(made, Tensor) else type(made).__name__
        )
        if returned != expected:
            raise ConfigError(
                f"data.augment {self.name!r}: returned {returned}, expected {expected}; mend it"
            )
        return made


def check_range(augmentation: Any, x: Float[Tensor, "n c h w"]) -> None:
    """Look whether images that an augmentation of the user's made are in [0, 1]; waits for their device.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(augmentation, OwnAugmentation):
        return
    low, high = torch.stack(x.aminmax()).tolist()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # nor NaN
        raise ConfigError(
            f"data.augment {augmentation.name!r}: returned values {low:g}..{high:g}, expected pixels in "
            "[0, 1]; clamp them, and leave normalisation to the network"
        )


def _kind(dtype: torch.dtype, shape: Sequence[int], device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)} on {device}"


_WHOLE: dict[str, dict[str, Any]] = {
    "none": {},
    "flip": {"flip": True},
    "crop": {"padding": 4},
    "crop-flip": {"padding": 4, "flip": True},
}
_CUT = {f"{name}-cutout".removeprefix("none-"): options | {"cutout": 16} for name, options in _WHOLE.items()}
AUGMENTATIONS: Registry[Callable[[], Augment]] = Registry(
    "data.augment",
    {
        **{name: partial(Augmentation, **options) for name, options in (_WHOLE | _CUT).items()},
        "resized-crop": partial(RandomResizedCrop, flip=False),
        "resized-crop-flip": RandomResizedCrop,
    },
    factories=True,
    result_type=Augment,
)
"""Augmentations by name; the hole has the size of the CIFAR-10 experiments of DeVries and Taylor 2017."""


def get(name: str, size: int | None = None) -> Any:
    """The registered augmentation, or that of your own "package.module:factory", called without arguments.

    A random resized crop returns images of side `size`, where that is given. Images that one of your own
    returns are looked at (`OwnAugmentation`).

    Raises:
        ConfigError: unknown name; with the known ones.
    """
    built = AUGMENTATIONS.build(name)
    if isinstance(built, RandomResizedCrop):
        built = replace(built, size=size)
    if name in AUGMENTATIONS:
        return built
    return OwnAugmentation(name, built, size if getattr(built, "takes_whole_images", False) else None)


def of_spec(spec: DataSpec, size: int | None = None) -> Any:
    """The augmentation that the `data` of a recipe names, as `get`; "auto" is the field's choice."""
    return get(default_for(spec.name) if spec.augment == "auto" else spec.augment, size)


def default_for(name: str) -> str:
    """The field's augmentation for a data set, e.g. "crop-flip" for cifar10; "none" where there is no custom.

    Digits are never flipped, and unknown data is left alone: a flip may change what an image means.

    >>> default_for("cifar10"), default_for("svhn"), default_for("fashion-mnist-10k")
    ('crop-flip', 'crop', 'none')
    """
    return DATASETS[name].augmentation if name in DATASETS else "none"


def mixup(
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    num_classes: int,
    alpha: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n classes"]]:
    """Blend each image and its label with those of a random partner (Zhang et al. 2018, eq. 1).

    The images are `lam x_i + (1 - lam) x_j`, and the labels, one-hot, are blended alike. As in the authors'
    code lam, from Beta(alpha, alpha), is one number for the batch, and j a random permutation of it.

    Args:
        x: images.
        y: their classes.
        num_classes: columns of the soft labels.
        alpha: towards 0 images stay as they are, 1 draws lam uniformly.
        generator: of lam and of the partners.

    Raises:
        ConfigError: `alpha` is not a finite number > 0.
    """
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"mixup: found {alpha}, expected a finite number > 0")
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
    lam = float(scipy.special.betaincinv(alpha, alpha, uniform.item()))
    partner = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    labels = F.one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partner], lam * labels + (1 - lam) * labels[partner]


def _choice(draw: Float[Tensor, " n"], choices: int) -> Int64[Tensor, " n"]:
    """One of 0 to `choices` - 1, all alike, from uniform numbers of [0, 1)."""
    return (draw * choices).long().clamp_max(choices - 1)


def _hole(
    x: Float[Tensor, "n c h w"], side: int, row: Int64[Tensor, " n"], column: Int64[Tensor, " n"]
) -> Bool[Tensor, "n 1 h w"]:
    """The pixels of a square around (row, column) in each image, as far as they are inside."""
    inside = []
    for centre, size in ((row, x.shape[2]), (column, x.shape[3])):
        offset = torch.arange(size, device=x.device) - (centre[:, None] - side // 2)
        inside.append((offset >= 0) & (offset < side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


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
