"""Build the images that come with the package from the four official IDX files of Fashion-MNIST.

    python tools/build_fashion_mnist_10k.py ../shared/data/fashion_mnist            # write the file
    python tools/build_fashion_mnist_10k.py ../shared/data/fashion_mnist --check    # only compare

The first 1,000 training and the first 200 test images of each class, in the official order: no random choice,
so the same input gives the same bytes. Prints the sha256, and exits 1 where it is not the one that the loader
asserts. The images are compressed with zlib: LZMA saves another 0.7 MB and unpacks seven times slower.
"""

import argparse
import gzip
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from robustlens.data import embedded
from robustlens.data.arrays import idx_file, read_idx

_SPLITS = (("train", "train", 1000), ("test", "t10k", 200))
_TARGET = Path(embedded.__file__).with_name(embedded.FILE)


def build(folder: Path) -> bytes:
    """The bytes of the embedded file; raises `FileNotFoundError` or `DataError` for bad input."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for split, stem, per_class in _SPLITS:
        images, labels = (_read(folder, stem, kind) for kind in ("images", "labels"))
        first = [np.flatnonzero(labels == label)[:per_class] for label in range(len(embedded.CLASSES))]
        rows = np.sort(np.concatenate(first))
        tensors |= {
            f"{split}_images": images[rows],
            f"{split}_labels": labels[rows],
            f"{split}_index": rows.astype(np.int32),
        }
    packed = io.BytesIO()
    # Not gzip.compress, whose header depends on the platform and the Python version.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(save(tensors))
    return packed.getvalue()


def _read(folder: Path, stem: str, kind: str) -> NDArray[np.uint8]:
    path = idx_file(folder, stem, kind)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no IDX file {stem}-{kind}")
    return read_idx(path, kind)


def main() -> int:
    """Build, write unless told not to, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder with the four IDX files")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    content = build(options.folder)
    if not options.check:
        _TARGET.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    print(f"{_TARGET.name}: {len(content):,} bytes, sha256 {found}")
    if found != embedded.SHA256:
        print(f"not the sha256 that embedded.py asserts ({embedded.SHA256})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
