"""Image files to uint8 pixels, with Pillow, once."""

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustlens.data.sizes import LARGEST_ALONE, LARGEST_IMAGE, check_size
from robustlens.data.splits import in_one_line
from robustlens.errors import DataError, out_of_memory

_GREY = {"1", "L", "LA", "La"}
_DEEP = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_DEEP_ENDINGS = (";16B", ";16L", ";16N")  # of raw modes of colours; BGR;16 has 16 bits a pixel
_WARNINGS = threading.Lock()  # filters of warnings belong to the process, not to a thread


def decode(
    files: Iterable[bytes | Path], count: int, name: Callable[[int], str]
) -> UInt8[Tensor, "count c h w"]:
    """Decode `count` images of one size.

    Grey images give one channel if all of them are grey; otherwise every image becomes RGB. Palettes are
    looked up, and an alpha channel is dropped without blending.

    Args:
        files: the encoded images, as bytes or paths; read one at a time.
        count: how many there are, at least one.
        name: of image i in an error message.

    Raises:
        DataError: an image that cannot be read, has more than 8 bits a channel (as far as Pillow says so: it
            does for PNG, TIFF and PPM), or another size than the first.
    """
    pixels: NDArray[np.uint8] | None = None  # NHWC while it fills: Pillow's own order
    for i, image in enumerate(read_each(files, name, LARGEST_IMAGE)):
        if pixels is None:
            check_size(count * image.size, name(0))
            pixels = np.empty((count, *image.shape), dtype=np.uint8)
        if image.shape[:2] != pixels.shape[1:3]:
            raise DataError(
                f"{name(i)}: image of {_size(image.shape)} pixels, expected {_size(pixels.shape[1:])} as in "
                f"{name(0)}; resize the images to one size"
            )
        if image.shape[2] > pixels.shape[3]:
            check_size(3 * pixels.size, name(0))
            pixels = np.repeat(pixels, 3, axis=3)
        pixels[i] = image  # a grey image is broadcast over three channels
    assert pixels is not None, "decode is called with at least one image"
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def read_each(
    files: Iterable[bytes | Path], name: Callable[[int], str], largest: int = LARGEST_ALONE
) -> Iterator[NDArray[np.uint8]]:
    """Images one by one, (h, w, 1) or (h, w, 3), of any size; raises `DataError` as `decode` does."""
    for i, file in enumerate(files):
        yield _read(file, i, name, largest)


def _read(file: bytes | Path, i: int, name: Callable[[int], str], largest: int) -> NDArray[np.uint8]:
    """One image as (h, w, 1) or (h, w, 3)."""
    try:
        with _opened(file) as image:
            if math.prod(image.size) > largest:
                raise DataError(
                    f"{name(i)}: image of {_size(image.size[::-1])} pixels, expected at most "
                    f"{largest}; resize it"
                )
            if deep := _deep_mode(image):
                raise DataError(f"{name(i)}: image mode {deep}, expected 8 bits a channel; convert it")
            image.info.pop("transparency", None)  # Pillow warns about some palettes; we drop alpha anyway
            wanted = "L" if image.mode in _GREY else "RGB"
            array = np.asarray(image if image.mode == wanted else image.convert(wanted))
    except DataError:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything for files that are cut short or damaged
        if out_of_memory(error):
            raise
        raise DataError(
            f"{name(i)}: cannot be read as an image ({in_one_line(error)}); replace it"
        ) from error
    return array[:, :, None] if wanted == "L" else array


def _deep_mode(image: Image.Image) -> str | None:
    """The mode of an image that has more than 8 bits a channel; None for others.

    Pillow cuts colours to 8 bits while it reads them: only what it has still to read says how many there are.
    """
    if image.mode in _DEEP:
        return image.mode
    for codec, _, _, arguments in getattr(image, "tile", ()):
        mode, *more = arguments if isinstance(arguments, tuple) else (arguments,)
        if str(mode).endswith(_DEEP_ENDINGS):
            return str(mode)
        if codec.startswith("ppm") and more and more[0] > 255:  # text of black and white has no depth
            return f"{mode} up to {more[0]}"
    return None


def _opened(file: bytes | Path) -> Image.Image:
    with (
        _WARNINGS,
        warnings.catch_warnings(),
    ):  # Pillow warns of an image that is too large, before it says how large
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
