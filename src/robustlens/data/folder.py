"""A folder of image files, one subfolder a class: train/<class>/*.png and test/<class>/*.png."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlens.data.fingerprint import of_files
from robustlens.data.pixels import decode, read_each
from robustlens.data.splits import Source, Sources
from robustlens.errors import DataError

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
_TEST_NAMES = ("test", "val", "valid", "validation")


def load(folder: Path) -> Sources:
    """Class names are the subfolders of `train`, sorted; images may lie deeper inside them.

    The test data is the first of `test`, `val`, `valid`, `validation` that exists. Hidden files, and files
    that do not end like an image, are passed over.

    Raises:
        DataError: a missing folder, a class without images, a test class that training does not have.
    """
    train = folder / "train"
    test = next((folder / name for name in _TEST_NAMES if (folder / name).is_dir()), None)
    if not train.is_dir() or test is None:
        lacking = "train" if not train.is_dir() else " or ".join(_TEST_NAMES[:2])
        raise DataError(
            f"{folder}: no folder {lacking} in it, expected train/<class>/ and test/<class>/ with images"
        )
    classes = _subfolders(train)
    if not classes:
        raise DataError(f"{train}: no class folders in it, expected {train.name}/<class>/*.png")
    unknown = [name for name in _subfolders(test) if name not in classes]
    if unknown:
        raise DataError(
            f"{test / unknown[0]}: not a class of {train}; expected a subset of its {len(classes)} folders"
        )
    empty = next((train / name for name in classes if not _images(train / name)), None)
    if empty is not None:
        raise DataError(f"{empty}: holds no images, expected files ending in {', '.join(sorted(ENDINGS))}")
    return Sources(_source(train, classes), _source(test, classes), classes)


def _source(root: Path, classes: tuple[str, ...]) -> Source:
    listed = [(path, label) for label, name in enumerate(classes) for path in _images(root / name)]
    paths = [path for path, _ in listed]

    def read(rows: Tensor) -> Tensor:
        chosen = [paths[row] for row in rows.tolist()]
        return decode(chosen, len(chosen), lambda i: str(chosen[i]))

    def each(rows: Tensor) -> Iterator[NDArray[np.uint8]]:
        chosen = [paths[row] for row in rows.tolist()]
        return read_each(chosen, lambda i: str(chosen[i]))

    def fingerprint(rows: Tensor) -> str:
        return of_files([paths[row] for row in rows.tolist()], root)

    labels = torch.tensor([label for _, label in listed], dtype=torch.int64)
    return Source(labels, read, str(root), each=each, fingerprint=fingerprint)


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    )


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )
