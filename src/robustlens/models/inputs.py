"""Images and labels as callers give them, checked once at the entrance of every function that takes them."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from robustlens.errors import DataError, ModelError
from robustlens.models.inference import inference
from robustlens.models.probe import as_logits, device_of, forward

Images = Tensor | NDArray[Any]
"""Float images (n, ...), inside the pixel bounds."""


@runtime_checkable
class Reader(Protocol):
    """Float32 images (n, ...) in [0, 1] that are read when asked for; used as a tensor is, batch by batch."""

    @property
    def shape(self) -> torch.Size:
        """As a tensor's."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, rows: Any) -> Tensor:
        """The images at `rows`, a tensor of int64 or a slice."""

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of `size` images, in order."""

    def select(self, rows: Any) -> "Reader":
        """A reader of the images at `rows`."""

    def digest(self) -> bytes:
        """A digest of all images."""


if TYPE_CHECKING:
    Readable = Tensor  # all that is done with either is what both have
else:
    Readable = Float[Tensor, "..."] | Reader
"""Checked images: in memory, or read batch by batch."""
Labels = Tensor | NDArray[Any]
"""Class numbers (n,), of any integer type."""
Batches = Iterable[Any]
"""Pairs (images, labels), one for each batch, as a DataLoader gives them."""
Bounds = tuple[float, float]
"""Smallest and largest pixel value."""
ANYWHERE = (-math.inf, math.inf)
"""Bounds of what only has to be finite."""
_UNKNOWN = (-20.0, 20.0)
"""Bounds where none are given: normalised images are inside, bytes are not."""

_DUST = 1e-6
"""Pixels may be so far outside, as a share of the bounds' width; they are clamped."""


def checked(
    model: nn.Module,
    x: Images | Batches | Reader,
    y: Labels | None,
    bounds: Bounds | None = None,
    *,
    where: str,
) -> tuple[Readable, Int64[Tensor, " n"]]:
    """Images and labels that fit each other, the bounds and the model; on the devices that they came on.

    One pass over the pixels, one over the labels, and one forward pass of two images, in eval mode.

    Args:
        model: returns logits (n, classes); left as it was.
        x: as `checked_images`; or batches of images and labels, which become one.
        y: as `checked_labels`; None with batches.
        bounds: of the pixels; None where no threat model gives any.
        where: begins the messages: the function that was called.

    Raises:
        DataError: as `checked_images` and `checked_labels`; another number of labels than of images.
        ModelError: the model fails on these images, writes to them, or returns something other than logits
            (n, classes) with a class for every label.
    """
    images, labels = checked_pair(x, y, bounds, model, where=where)
    few = images[:2].detach().to(device_of(model))
    given = few.clone()
    with inference(model):
        as_logits(forward(model, given), len(few), at_least=max(2, int(labels.max()) + 1))
    if not torch.equal(given, few):
        raise ModelError("model: writes to the images that it is given; begin its forward with x = x.clone()")
    return images, labels


def checked_pair(
    x: Images | Batches | Reader, y: Labels | None, bounds: Bounds | None, model: nn.Module, *, where: str
) -> tuple[Readable, Int64[Tensor, " n"]]:
    """As `checked`, without the forward pass: images and labels that fit each other and the bounds."""
    x, y = _joined(x, y, where)
    images = checked_images(x, bounds, model, where=where)
    labels = checked_labels(y, where=where)
    if len(images) != len(labels):
        raise DataError(f"{where}: found {len(images)} images and {len(labels)} labels, expected as many")
    return images, labels


def checked_images(
    x: Images | Batches | Reader,
    bounds: Bounds | None = None,
    model: nn.Module | None = None,
    *,
    where: str,
) -> Readable:
    """Images inside the bounds: the same tensor, unless its type or its dust has to change.

    Args:
        x: at least one image, a tensor or a NumPy array of floats, or batches with labels, which are left
            out. Half and bfloat16 become what the model
            computes in; so does float64, which a model in lower precision gets as float32. Pixels that are
            outside by no more than 1e-6 of the bounds' width are clamped.
        bounds: of the pixels; either may be infinite. None refuses bytes only: pixels outside [-20, 20].
        model: whose weights say what it computes in; without any, all but half and bfloat16 stay as they are.
        where: begins the messages.

    Raises:
        DataError: no images, another shape or type, a pixel that is NaN, infinite or outside.
        ModelError: the model is no network, or not built yet.
    """
    if model is not None:
        check_network(model)
    if isinstance(x, Reader):
        return _checked_reader(x, bounds, where)
    if not isinstance(x, Tensor | np.ndarray) and isinstance(x, Iterable):
        x = _images_of(list(x), where)
    images = _tensor(x, f"{where}: found images", "floats (n, ...)")
    if images.layout != torch.strided or images.is_meta or images.is_quantized:
        raise DataError(f"{where}: found sparse, quantised or meta images, expected floats of their own")
    shape = tuple(images.shape)
    if images.ndim < 2 or 0 in shape[1:]:
        raise DataError(f"{where}: found images of shape {shape}, expected (n, ...)")
    if len(images) == 0:
        raise DataError(f"{where}: found 0 images, expected at least 1")
    low, high = _UNKNOWN if bounds is None else bounds
    expected = f"[{low:g}, {high:g}]" if bounds else "[0, 1], or normalised as the network reads them"
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(
            f"{where}: found {kind} pixels, expected floats in {expected}; convert them (bytes: "
            "x.float() / 255)"
        )
    least, largest = (float(end) for end in images.detach().aminmax())
    if not (math.isfinite(least) and math.isfinite(largest)):
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise DataError(
            f"{where}: found NaN or infinite pixels in {bad} of {len(images)} images, expected finite numbers"
        )
    dust = _DUST * (high - low) if math.isfinite(high - low) else 0.0
    if least < low - dust or largest > high + dust:
        raise DataError(
            f"{where}: found pixels in [{least:g}, {largest:g}], expected {expected}; divide by 255, "
            "keep normalisation inside the model, or set the threat's bounds"
        )
    wanted = _dtype(images.dtype, model)
    is_inside = low <= least and largest <= high and wanted == images.dtype  # rounding may lead outside
    return images if is_inside else images.to(wanted).clamp(low, high)


def _checked_reader(x: Reader, bounds: Bounds | None, where: str) -> Any:
    """Images that are read later: there are some, and the bounds hold all of [0, 1]."""
    low, high = (0.0, 1.0) if bounds is None else bounds
    if len(x) == 0:
        raise DataError(f"{where}: found 0 images, expected at least 1")
    if low > 0 or high < 1:
        raise DataError(
            f"{where}: found bounds [{low:g}, {high:g}], expected those of the images that are read, [0, 1]"
        )
    return x


def _images_of(values: list[Any], where: str) -> Any:
    """The images of batches (images, labels), joined; or the values themselves, which are numbers then."""
    is_pair = (isinstance(value, tuple | list) and len(value) == 2 for value in values)
    if not values or not all(is_pair) or getattr(values[0][1], "ndim", 0) != 1:
        return values
    return _joined(values, None, where)[0]


def check_network(model: object) -> None:
    """Raise `ModelError` for what is no `nn.Module`, and for one whose lazy layers have no shape yet."""
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"model: found {kind}, expected an nn.Module that gives logits")
    weights = model.named_parameters()
    name = next((name for name, weight in weights if isinstance(weight, UninitializedParameter)), None)
    if name is not None:
        raise ModelError(f"model: {name} has no shape yet; call the network once on images first")


def checked_labels(y: Labels, *, where: str) -> Int64[Tensor, " n"]:
    """Class numbers from 0, as int64.

    Args:
        y: a tensor or a NumPy array (n,) of any integer type.
        where: begins the messages.

    Raises:
        DataError: one-hot rows or another shape, floats, bools, or a negative number.
    """
    labels = _tensor(y, f"{where}: found labels", "integers (n,)")
    kind, shape = str(labels.dtype).removeprefix("torch."), tuple(labels.shape)
    if labels.ndim == 2 and shape[1] > 1:
        raise DataError(
            f"{where}: found labels of shape {shape}, as of one-hot rows, expected integers (n,); "
            "y.argmax(1) gives them"
        )
    if labels.ndim != 1 or labels.dtype == torch.bool or labels.is_floating_point():
        raise DataError(f"{where}: found {kind} labels of shape {shape}, expected integers (n,)")
    labels = labels.to(torch.int64)
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{where}: found label {int(labels.min())}, expected 0 to classes - 1")
    return labels


def _joined(x: Images | Batches | Reader, y: Labels | None, where: str) -> tuple[Images | Reader, Labels]:
    """The images and labels of all batches, or those that were given as such."""
    if y is not None:
        return cast(Images, x), y
    if isinstance(x, Tensor | np.ndarray) or not isinstance(x, Iterable):
        raise DataError(
            f"{where}: found images without labels; give y, or batches (x, y) such as a DataLoader"
        )
    pairs = list(x)
    if not pairs:
        raise DataError(f"{where}: found no batches, expected pairs (images, labels), at least 1")
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise DataError(f"{where}: found batches of another kind, expected pairs (images, labels)")
    columns = zip(*pairs, strict=True)
    images, labels = (
        [_tensor(part, f"{where}: found batches", "numbers") for part in column] for column in columns
    )
    try:
        return torch.cat(images), torch.cat(labels)
    except RuntimeError as error:
        raise DataError(
            f"{where}: found batches of images or labels that differ in shape: {error}"
        ) from error


def _tensor(values: object, found: str, expected: str) -> Tensor:
    """A tensor as it is, an array as a tensor of its own memory where it can be."""
    if isinstance(values, Tensor):
        return values.clone() if values.is_inference() else values  # no gradient flows through those
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{found} as {type(values).__name__}, expected a tensor or an array of {expected}")
    return torch.from_numpy(np.require(array.astype(array.dtype.newbyteorder("=")), requirements=["C", "W"]))


def _dtype(dtype: torch.dtype, model: nn.Module | None) -> torch.dtype:
    """The type in which the model gets images of this type: no narrower than float32 unless both are."""
    weights = () if model is None else model.parameters()
    default = torch.float64 if dtype == torch.float64 else torch.float32
    own = next((weight.dtype for weight in weights if weight.is_floating_point()), default)
    if dtype == own or (dtype == torch.float32 and own != torch.float64):
        return dtype
    return torch.float64 if own == torch.float64 else torch.float32
