"""Images that are arrays already: IDX files, npz files, arrays in memory. No extra is needed."""

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from robustlens.data.fingerprint import of_files
from robustlens.data.sizes import check_size
from robustlens.data.splits import Source, Sources, Splits, assemble, in_one_line
from robustlens.errors import DataError, out_of_memory

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_IDX_DIMENSIONS = {"images": 3, "labels": 1}


def from_tensors(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    classes: tuple[str, ...] | None = None,
    name: str = "arrays",
    *,
    validation: float = 0.1,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> Splits:
    """Splits from images that you hold in memory.

    Args:
        x_train: training images, a tensor or NumPy array of shape (n, h, w), (n, c, h, w) or (n, h, w, c)
            with c 1 or 3. Integers lie in 0..255. Floats lie in [0, 1] and become round(255 x), so a value
            that is not a multiple of 1/255 moves by up to 1/510.
        y_train: their labels 0..C-1, integers of shape (n,) or (n, 1).
        x_test: test images, likewise.
        y_test: their labels.
        classes: names of the classes; "0", "1", ... if absent, and then training must show every class.
        name: of the data set.
        validation: share of the training images held out, stratified; 0 for none.
        seed: of the subsets and of the validation split.
        train_limit: use that many training images, counted before the validation split is taken out.
        test_limit: use that many test images.

    Raises:
        DataError: wrong shape, type or range, NaN, labels outside 0..C-1, lengths that differ.
        ConfigError: a limit or a share that cannot be met.

    >>> x, y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    >>> splits = from_tensors(x, y, x[:2], y[:2], validation=0.5)
    >>> len(splits.train), len(splits.validation), splits.shape, splits.classes
    (2, 2, (1, 2, 2), ('0', '1'))
    """
    sources = sources_of(name, x_train, y_train, x_test, y_test, classes=classes)
    return assemble(
        sources, name, validation=validation, seed=seed, train_limit=train_limit, test_limit=test_limit
    )


def sources_of(
    name: str, x_train: Any, y_train: Any, x_test: Any, y_test: Any, *, classes: tuple[str, ...] | None = None
) -> Sources:
    """Sources from arrays as `from_tensors` takes them; `name` is for messages."""
    arrays = dict(zip(_KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return _sources(arrays, {key: f"{name}: {key}" for key in _KEYS}, classes)


def load_npz(path: Path) -> Sources:
    """An .npz file with the arrays x_train, y_train, x_test, y_test, each as in `from_tensors`.

    Raises:
        DataError: a file that is missing, truncated or pickled, or arrays of another shape, type or range.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected an .npz with {', '.join(_KEYS)}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
            missing = [key for key in _KEYS if key not in members]
            if missing:
                names = ", ".join(members)[:200] or "nothing"
                raise DataError(f"{path}: lacks {', '.join(missing)}, found {names}")
            check_size(sum(_size_of(archive, key) for key in _KEYS), str(path))
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _KEYS}
    except DataError:
        raise
    except Exception as error:  # the readers of zip files and headers raise more than they say
        if out_of_memory(error):
            raise
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: holds Python objects, expected numbers (pickles are never read)"
            ) from error
        raise DataError(f"{path}: is no complete .npz file ({in_one_line(error)}); save it again") from error
    return _sources(arrays, {key: f"{path}: {key}" for key in _KEYS}, None, [path])


def load_idx(folder: Path, classes: tuple[str, ...] | None = None) -> Sources:
    """The four IDX files of an MNIST-like data set, gzipped or not.

    Raises:
        DataError: a file that is missing, truncated, or no IDX file of bytes; counts that differ.
    """
    arrays, wheres, paths = {}, {}, []
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images"), ("y", "labels")):
            path = idx_file(folder, stem, kind)
            if path is None:
                name = f"{stem}-{kind}-idx{_IDX_DIMENSIONS[kind]}-ubyte"
                raise DataError(f"{folder}: no {name}.gz (or {name}) in it; put the four IDX files there")
            arrays[f"{letter}_{split}"] = read_idx(path, kind)
            wheres[f"{letter}_{split}"] = str(path)
            paths.append(path)
    return _sources(arrays, wheres, classes, paths)


def idx_file(folder: Path, stem: str, kind: str) -> Path | None:
    """The IDX file of `kind` ("images" or "labels") in a folder, under any of its usual names."""
    names = [f"{stem}-{kind}{mark}idx{_IDX_DIMENSIONS[kind]}-ubyte" for mark in "-."]
    candidates = (folder / (name + ending) for name in names for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, kind: str) -> NDArray[np.uint8]:
    """The "images" (n, h, w) or "labels" (n,) of an IDX file of unsigned bytes; gzip is known by its content.

    The format (on the MNIST page of LeCun, Cortes and Burges): two zero bytes, the type (8 for unsigned
    bytes), the number of dimensions, each size as a big-endian 32-bit integer, then the values.
    """
    try:
        with path.open("rb") as raw:
            begin = raw.read(2)  # what begins like neither is refused as what its name says
            is_gzip = begin == b"\x1f\x8b" or (path.suffix == ".gz" and begin != b"\0\0")
            raw.seek(0)
            with gzip.open(raw) if is_gzip else raw as file:
                return _idx(file, path, kind)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({in_one_line(error)}); download it again") from error


def _idx(file: io.BufferedIOBase, path: Path, kind: str) -> NDArray[np.uint8]:
    """The content of an IDX file, of which no more is unpacked than its header says that there is."""
    dimensions = _IDX_DIMENSIONS[kind]
    magic = bytes((0, 0, 8, dimensions))
    header = file.read(4 + 4 * dimensions)
    if header[:4] != magic or len(header) < 4 + 4 * dimensions:
        shown = header[:4].hex() or "nothing"
        raise DataError(f"{path}: starts with {shown}, expected {magic.hex()}, the mark of IDX {kind}")
    sizes = tuple(np.frombuffer(header, dtype=">u4", offset=4).tolist())
    expected = math.prod(sizes)
    check_size(expected, str(path))
    content = file.read(expected + 1)
    if len(content) != expected:
        number = f"more than {expected}" if len(content) > expected else str(len(content))
        raise DataError(
            f"{path}: holds {number} bytes of {kind}, expected {'x'.join(map(str, sizes))} = {expected} as "
            "its header says; download it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(sizes)


def _size_of(archive: zipfile.ZipFile, key: str) -> int:
    """Bytes of an array in an .npz file: as many as the archive and the array's own header say."""
    name = next(name for name in archive.namelist() if name.removesuffix(".npy") == key)
    size = archive.getinfo(name).file_size
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read(file)
    return max(size, math.prod(shape) * dtype.itemsize)


def class_names(labels: Int64[Tensor, " n"], where: str) -> tuple[str, ...]:
    """Numbers as names, for data that names no classes; training then has to show each of 0..C-1."""
    present = labels.unique().tolist()
    if present != list(range(len(present))):
        raise DataError(
            f"{where}: labels run {present[0]}..{present[-1]} with {len(present)} different values, expected "
            f"every one of 0..C-1; renumber them from 0"
        )
    return tuple(str(number) for number in present)


def _sources(
    arrays: dict[str, Any],
    wheres: dict[str, str],
    classes: tuple[str, ...] | None,
    files: Sequence[Path] = (),
) -> Sources:
    """Sources from the four arrays; `wheres` name them in messages, `files` hold them, all in one folder."""
    train, test = (_source(arrays, wheres, f"x_{split}", f"y_{split}") for split in ("train", "test"))
    classes = classes or class_names(train.labels, train.where)
    if not files:
        return Sources(train, test, classes)

    def fingerprint(rows: Tensor) -> str:
        return of_files(files, files[0].parent)

    return Sources(replace(train, fingerprint=fingerprint), replace(test, fingerprint=fingerprint), classes)


def _source(arrays: dict[str, Any], wheres: dict[str, str], x: str, y: str) -> Source:
    images, labels = _images(arrays[x], wheres[x]), _labels(arrays[y], wheres[y])
    if len(images) != len(labels):
        raise DataError(f"{wheres[x]}: {len(images)} images, but {wheres[y]} holds {len(labels)} labels")
    return Source(labels, images.__getitem__, wheres[y])


def _images(array: Any, where: str) -> UInt8[Tensor, "n c h w"]:
    """Any of the accepted layouts and types as bytes, NCHW."""
    values = _numbers(array, where)
    shape = values.shape
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or 0 in values.shape[1:]:
        raise DataError(f"{where}: shape {shape}, expected (n, h, w), (n, c, h, w) or (n, h, w, c)")
    if values.shape[1] not in (1, 3):
        values = np.moveaxis(values, 3, 1)
    if values.shape[1] not in (1, 3):
        raise DataError(f"{where}: shape {shape}, expected 1 or 3 channels")
    pixels = values if values.dtype == np.uint8 else _to_bytes(values, where)
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))


def _to_bytes(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Integers in 0..255 or floats in [0, 1] as bytes."""
    real = values.dtype.kind == "f"
    if real and not np.isfinite(values).all():
        raise DataError(f"{where}: holds NaN or infinity, expected pixels in [0, 1]; clean the images first")
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > (1 if real else 255):
        wanted = "floats in [0, 1]; undo the normalisation" if real else "integers in 0..255; rescale them"
        raise DataError(f"{where}: pixels run {low:g}..{high:g}, expected {wanted}")
    return np.rint(values * values.dtype.type(255)).astype(np.uint8) if real else values.astype(np.uint8)


def _labels(array: Any, where: str) -> Int64[Tensor, " n"]:
    labels = _numbers(array, where)
    if labels.dtype.kind == "f":
        raise DataError(f"{where}: {labels.dtype}, expected integer labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # as Keras stores them
    if labels.ndim != 1:
        raise DataError(f"{where}: shape {labels.shape}, expected one label an image, (n,)")
    return torch.from_numpy(labels.astype(np.int64))


def _numbers(array: Any, where: str) -> NDArray[Any]:
    """Integers or floats as a NumPy array; NumPy has no bfloat16, so that widens."""
    try:
        if isinstance(array, Tensor):
            array = array.detach().cpu()
            array = array.float() if array.dtype == torch.bfloat16 else array
        values = np.asarray(array)
    except Exception as error:  # sparse, quantised and meta tensors each raise another one
        if out_of_memory(error):
            raise
        raise DataError(
            f"{where}: is no array ({in_one_line(error)}), expected numbers of one shape"
        ) from error
    if values.dtype.kind not in "iuf":
        raise DataError(f"{where}: {values.dtype}, expected integers or floats")
    return values
