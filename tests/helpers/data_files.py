"""Toy images in every form that the data rooms read, and the check that bad data gets one clear line."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustlens import data
from robustlens.data import splits
from robustlens.errors import DataError

REPOSITORY = Path(__file__).parents[2]
OFFICIAL = REPOSITORY.parent / "shared" / "data" / "fashion_mnist"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(),
    reason="the official IDX files are not beside this checkout (../shared/data/fashion_mnist)",
)


def refused(line: str, action: Callable[[], Any], kind: type[Exception] = DataError) -> None:
    """`action` fails with one line that matches the pattern."""
    with pytest.raises(kind, match=line) as caught:
        action()
    assert "\n" not in str(caught.value)


def toy_images(n: int, shape: tuple[int, ...] = (4, 4), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def toy_labels(n: int, classes: int = 2) -> np.ndarray:
    return (np.arange(n) % classes).astype(np.uint8)


def toy_splits(n: int = 40, classes: int = 4, **options: Any) -> splits.Splits:
    return data.from_tensors(
        toy_images(n),
        toy_labels(n, classes),
        toy_images(classes, seed=1),
        toy_labels(classes, classes),
        **options,
    )


def source_of(labels: list[int], channels: int = 1, size: int = 4) -> splits.Source:
    images = torch.from_numpy(toy_images(len(labels), (channels, size, size)))
    return splits.Source(torch.tensor(labels, dtype=torch.int64), images.__getitem__, "toy")


def idx_bytes(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def write_idx(folder: Path, mark: str = "-", packed: bool = True, classes: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, n, seed in (("train", 8, 0), ("t10k", 4, 1)):
        for kind, values in (("images-3", toy_images(n, seed=seed)), ("labels-1", toy_labels(n, classes))):
            name, dimensions = kind.split("-")
            content = idx_bytes(values)
            path = folder / f"{stem}-{name}{mark}idx{dimensions}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def grey(value: int, size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new("L", size, value)
