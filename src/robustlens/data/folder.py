"""A folder of image files, one subfolder a class: train/<class>/*.png and test/<class>/*.png."""

import os
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

    The test data is the first of `test`, `val`, `valid`, `validation` that exists. Links are followed. Hidden
    files and folders, and files that do not end like an image, are passed over.

    Raises:
        DataError: a missing folder, a class without images, a test class that training does not have, a link
            to nothing.
    """
    train = folder / "train"
    test = next((folder / name for name in _TEST_NAMES if _is_folder(folder / name)), None)
    if not _is_folder(train) or test is None:
        lacking = "train" if not train.is_dir() else " or ".join(_TEST_NAMES[:2])
        raise DataError(
            f"{folder}: no folder {lacking} in it, expected train/<class>/ and test/<class>/ with images"
        )
    images, test_images = _images_by_class(train), _images_by_class(test)
    if not images:
        raise DataError(f"{train}: no class folders in it, expected {train.name}/<class>/*.png")
    unknown = [name for name in test_images if name not in images]
    if unknown:
        raise DataError(
            f"{test / unknown[0]}: not a class of {train}; expected a subset of its {len(images)} folders"
        )
    empty = next((train / name for name, paths in images.items() if not paths), None)
    if empty is not None:
        raise DataError(f"{empty}: holds no images, expected files ending in {', '.join(sorted(ENDINGS))}")
    classes = tuple(images)
    return Sources(_source(train, images, classes), _source(test, test_images, classes), classes)


def _source(root: Path, images: dict[str, list[Path]], classes: tuple[str, ...]) -> Source:
    listed = [(path, label) for label, name in enumerate(classes) for path in images.get(name, [])]
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


def _images_by_class(root: Path) -> dict[str, list[Path]]:
    """The images of every class folder in `root`, both sorted."""
    classes = sorted(entry.name for entry in _entries(root) if entry.is_dir())
    return {name: sorted(_images(root / name, (root.resolve(),))) for name in classes}


def _images(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Image files in a folder and in those below it, links followed; `above`: those it lies in, resolved."""
    real = folder.resolve()
    if real in above:
        raise DataError(f"{folder}: leads back to {real}, in which it lies; remove the link")
    for entry in _entries(folder):
        path = Path(entry)
        if entry.is_dir():
            yield from _images(path, (*above, real))
        elif path.suffix.lower() in ENDINGS and entry.is_file():
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for what is hidden; raises `DataError` for links to nothing."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); mend its permissions") from error
    for entry in shown:
        _check_link(entry)
    return shown


def _is_folder(path: Path) -> bool:
    """Whether there is a folder; raises `DataError` for a link to nothing, which may have been one."""
    _check_link(path)
    return path.is_dir()


def _check_link(path: Path | os.DirEntry[str]) -> None:
    """Raise `DataError` for a link to nothing: the images that it stands for would be missing in silence."""
    if not path.is_symlink():
        return
    try:
        path.stat()
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: links to nothing ({error.strerror}), expected a file or a folder; fetch "
            "what it links to, or remove the link"
        ) from error
