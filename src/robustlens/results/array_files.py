"""Safetensors files of ours: sealed when written, verified once when read, array by array.

The metadata hold a header, plain values that say what the tensors are, and the seal (see `files`).
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from robustlens.errors import StateError
from robustlens.results.files import (
    FORMAT,
    SEALED_TENSORS,
    ZEROS,
    check_format,
    damaged,
    is_intact,
    read_bytes,
    require_plain_file,
    seal_of,
    sealed,
    write_atomic,
)
from robustlens.results.values import plain

_HEADER = "robustlens"
"""Key of the metadata of files that are ours."""

_DTYPES = {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1", "U16": "<u2", "U32": "<u4"}
_DTYPES |= {"U64": "<u8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "C64": "<c8"}
"""numpy's types by the names of safetensors, of those that numpy has."""


def sealed_tensors(content: bytes, header: Mapping[str, Any]) -> bytes:
    """A safetensors file with `header` and its seal in the metadata.

    Args:
        content: as safetensors writes it; metadata of its own are dropped.
        header: plain values that say what the tensors are.
    """
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    entries.pop("__metadata__", None)
    # The seal first: older versions look for it in the first 64 KiB alone.
    metadata = {"seal": ZEROS, _HEADER: json.dumps({"format": FORMAT, **plain(header)})}
    head = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return sealed(len(head).to_bytes(8, "little") + head + content[8 + size :], SEALED_TENSORS)


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any] | None = None
) -> str:
    """Write arrays as a sealed safetensors file; returns the seal."""
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    content = sealed_tensors(save_tensors(contiguous), header or {})
    write_atomic(path, content)
    return seal_of(content) or ""


@dataclass(frozen=True)
class TensorsHeader:
    """Header of a safetensors file of ours; `seal` is None in a file of format 1."""

    values: Mapping[str, Any]
    seal: str | None


def check_tensors(content: bytes, where: str, metadata: Mapping[str, str]) -> TensorsHeader:
    """The header of a safetensors file of ours, its seal checked.

    Args:
        content: the file.
        where: names it in messages.
        metadata: as safetensors reads it.

    Raises:
        StateError: the content does not have its seal, or the file is of a newer format.
    """
    seal = seal_of(content)
    try:
        values = json.loads(metadata.get(_HEADER) or "{}")
        format_ = values.get("format", 1)
    except (ValueError, AttributeError, RecursionError) as error:
        raise StateError(damaged(where)) from error
    check_format(format_, where)
    if (format_ > 1 or seal is not None) and not is_intact(content):
        raise StateError(damaged(where))
    return TensorsHeader(values, seal)


def read_header(path: Path) -> TensorsHeader:
    """The header of a safetensors file of ours, read and checked as by `check_tensors`."""
    return check_tensors(read_bytes(path), str(path), metadata_of(path))


def read_tensors(path: Path, framework: str = "pt") -> tuple[TensorsHeader, dict[str, Any]]:
    """The header of a file of ours, checked, and its tensors, as torch has them, or "numpy"."""
    header = read_header(path)
    with opened(path, framework) as file:
        return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this metadata is of robustlens: it has our header, or a seal."""
    return _HEADER in metadata or re.fullmatch(r"[0-9a-f]{64}", metadata.get("seal", "")) is not None


@dataclass(frozen=True)
class _Place:
    """The place of an array in a file: its type as safetensors names it, and bytes from the beginning."""

    dtype: str
    shape: tuple[int, ...]
    begins: int

    def read(self, file: BufferedReader) -> np.ndarray:
        """The array; raises `ValueError` where the file ends before it does."""
        array = np.empty(self.shape, _DTYPES[self.dtype])
        file.seek(self.begins)
        if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise ValueError("the file ends inside an array")
        return array


@dataclass(eq=False)
class ArrayFile(Mapping[str, np.ndarray]):
    """Arrays of a safetensors file, by name: the file is verified once, and an array read when asked for.

    A report asks for a hundred thousand arrays. `safe_open` would read the names of all arrays for each; here
    they are read with the seal, and once more where the file is another one than it was.

    Args:
        path: the file. seal: that the result beside it names; None where it names none (format 1).
        prefix: of the names that are shown, and that is left out of them.
    """

    path: Path
    seal: str | None = None
    prefix: str = ""
    _known: dict[tuple[int, ...], dict[str, _Place]] = field(default_factory=dict, repr=False)

    def under(self, prefix: str) -> Mapping[str, np.ndarray]:
        """The arrays whose names begin with `prefix`, by the rest of their names."""
        return ArrayFile(self.path, self.seal, self.prefix + prefix, self._known)

    def __getitem__(self, key: str) -> np.ndarray:
        with self._verified() as (file, places):
            if (place := places.get(f"{self.prefix}{key}")) is None:
                raise KeyError(key)
            if place.dtype not in _DTYPES:
                raise StateError(f"{self.path}: {key} is of type {place.dtype}, which numpy does not have")
            return place.read(file)

    def __iter__(self) -> Iterator[str]:
        with self._verified() as (_, places):
            return (name.removeprefix(self.prefix) for name in places if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def check_owner(self) -> None:
        """Raise `StateError` where the file is intact at first sight, and of another result.

        Then it or the document lies in the wrong place, and the numbers of neither can be believed. Only the
        header is read; what is missing or damaged is found by who asks for an array.
        """
        try:
            seal = metadata_of(self.path).get("seal")
        except StateError:
            return
        if None not in (seal, self.seal) and seal != self.seal:
            raise self._other_result()

    def verify(self) -> None:
        """Read the whole file once; raises `StateError` where it is missing, damaged or another one."""
        with self._verified():
            pass

    def _other_result(self) -> StateError:
        return StateError(f"{self.path}: does not belong to the result beside it; make that again")

    @contextlib.contextmanager
    def _verified(self) -> Iterator[tuple[BufferedReader, dict[str, _Place]]]:
        """The open file, and the places of its arrays."""
        with _readable(self.path):
            require_plain_file(self.path)
            with self.path.open("rb") as file:
                version = _version(os.fstat(file.fileno()))
                if version not in self._known:
                    self._known[version] = self._checked_places(file, version)
                yield file, self._known[version]

    def _checked_places(self, file: BufferedReader, version: tuple[int, ...]) -> dict[str, _Place]:
        header = read_header(self.path)
        if _version(self.path.stat()) != version:
            raise StateError(f"{self.path}: another file came in its place while it was read; read it again")
        if self.seal is not None and header.seal != self.seal:
            raise self._other_result()
        return _places(file)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one in its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _places(file: BufferedReader) -> dict[str, _Place]:
    """Where the arrays of an intact safetensors file are, in the order of their names."""
    size = int.from_bytes(file.read(8), "little")
    entries = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    return {
        name: _Place(entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in sorted(entries.items())
    }


@contextlib.contextmanager
def opened(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """A safetensors file; `StateError` naming it where it is missing or damaged. No seal is checked."""
    with _readable(path), safe_open(path, framework=framework) as file:
        yield file


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file in errors of its reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise StateError(f"{path}: no such file; run the step that writes it first") from error
    except OSError as error:
        raise StateError(f"{path}: cannot be read ({error.strerror or error}); restore it") from error
    except (SafetensorError, ValueError) as error:
        raise StateError(f"{path}: damaged ({error}); delete it and run the step again") from error


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with opened(path) as file:
        return dict(file.metadata() or {})
