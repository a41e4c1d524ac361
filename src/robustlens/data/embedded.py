"""`fashion-mnist-10k`: the images that come with the package, so that all runs without a download.

The first 1,000 training and the first 200 test images of each class of Fashion-MNIST (Xiao, Rasul and
Vollgraf 2017, arXiv 1708.07747; MIT licence, beside the file), in their official order, which is shuffled.
`tools/build_fashion_mnist_10k.py` builds the file. `Split.index` is the position in the official split.
"""

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from robustlens.data.splits import Source, Sources
from robustlens.errors import DataError

FILE = "fashion_mnist_10k.safetensors.gz"
SHA256 = "309967ab8847835a241694ab5b89449e2619c1f9dad0871a8bd6ff84c73aa1f8"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class EmbeddedDataset:
    """`fashion-mnist-10k` in the registry; it needs no folder."""

    augmentation: str = "none"

    def load(self, name: str, data_dir: Path | None = None) -> Sources:
        """The images of the package, as the function `load` reads them."""
        return load()


def load() -> Sources:
    """10,000 training and 2,000 test images, 1x28x28, ten balanced classes.

    Raises:
        DataError: the file in the package is missing or damaged.
    """
    file = resources.files(__package__) / FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: missing from the package; reinstall robustlens") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise DataError(f"{file}: sha256 {digest[:12]}..., expected {SHA256[:12]}...; reinstall robustlens")
    tensors = load_safetensors(gzip.decompress(content))
    return Sources(_source(tensors, "train"), _source(tensors, "test"), CLASSES)


def _source(tensors: dict[str, Tensor], split: str) -> Source:
    images = tensors[f"{split}_images"][:, None]
    labels, index = (tensors[f"{split}_{kind}"].to(torch.int64) for kind in ("labels", "index"))
    return Source(labels, images.__getitem__, f"{FILE}: {split}", index)
