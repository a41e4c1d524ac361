"""Limits of data that are read into memory: a small file may say that it holds a thousand times its size."""

from robustlens.errors import DataError
from robustlens.machine import memory

LARGEST_IMAGE = 1 << 24
"""Pixels of one encoded image, 4096 x 4096: networks are trained on far smaller ones."""
LARGEST_ALONE = 1 << 26
"""The same where images are read one by one, to be resized: some photographs of ImageNet have 61 million."""


def check_size(size: int, where: str) -> None:
    """Raise `DataError` for data of so many bytes, unless half of this machine's memory holds them.

    They are held as a whole, and networks and batches need the rest.
    """
    most = memory() // 2
    if size > most:
        raise DataError(
            f"{where}: holds {size / 1e9:.3g} GB unpacked, expected at most {most / 1e9:.3g} GB, half of "
            "this machine's memory; take fewer or smaller images"
        )
