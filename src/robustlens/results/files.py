"""Files of a run and of a study: written atomically, sealed, and checked by whoever reads them.

A *seal* is the SHA-256 of a file's exact bytes with the seal's own 64 digits taken as zeros. JSON keeps it as
the last key, `metrics.jsonl` in each line, safetensors in the metadata. A file of format 1 has none: it is
read, reported as unsealed by `verify`, and never rewritten.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from robustlens.errors import LockedError, ResourceError, StateError
from robustlens.results.upgrade import upgraded
from robustlens.results.values import plain

FORMAT = 2
"""Version of the files of a run or study folder; raised when a reader of the old one would misread them."""

_HEADER = "robustlens"
"""Key of the metadata of safetensors files that are ours."""
_DIGITS = 64
_ZEROS = "0" * _DIGITS
_SEALED_JSON = re.compile(rb'"seal": "([0-9a-f]{64})"\s*\}\s*\Z')
_SEALED_TENSORS = re.compile(rb'"seal":"([0-9a-f]{64})"')
_HEAD = 1 << 16  # bytes of a safetensors file in which its metadata and the seal lie: they are written first


# -- writing -------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error


def _umask() -> int:
    """The process's file-mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Any) -> None:
    """Write a document or a mapping as indented, sealed JSON. NaN and infinity become null."""
    write_atomic(path, sealed_json(content))


def sealed_json(content: Any, *, indent: int | None = 1) -> bytes:
    """A document as JSON that carries its format and its seal, with a line break at the end."""
    values = {"format": FORMAT, **plain(content), "seal": _ZEROS}
    return _sealed((json.dumps(values, indent=indent, allow_nan=False) + "\n").encode(), _SEALED_JSON)


def sealed_tensors(content: bytes, header: Mapping[str, Any]) -> bytes:
    """A safetensors file with `header` and its seal in the metadata.

    Args:
        content: as safetensors writes it; metadata of its own are dropped.
        header: plain values that say what the tensors are.
    """
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    entries.pop("__metadata__", None)
    metadata = {_HEADER: json.dumps({"format": FORMAT, **plain(header)}), "seal": _ZEROS}
    head = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return _sealed(len(head).to_bytes(8, "little") + head + content[8 + size :], _SEALED_TENSORS)


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any] | None = None
) -> str:
    """Write arrays as a sealed safetensors file; returns the seal."""
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    content = sealed_tensors(save_tensors(contiguous), header or {})
    write_atomic(path, content)
    return found_seal(content) or ""


def _sealed(content: bytes, pattern: re.Pattern[bytes]) -> bytes:
    """`content` with the seal in place of the zeros."""
    place = pattern.search(content)
    assert place is not None
    start, end = place.span(1)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[end:]


# -- reading -------------------------------------------------------------------------------------------


def found_seal(content: bytes) -> str | None:
    """The seal that a file of ours carries, or None; it is not checked."""
    place = _SEALED_JSON.search(content) or _SEALED_TENSORS.search(content[:_HEAD])
    return None if place is None else place[1].decode()


def is_intact(content: bytes) -> bool:
    """Whether the seal that a file carries is that of its bytes."""
    place = _SEALED_JSON.search(content) or _SEALED_TENSORS.search(content[:_HEAD])
    if place is None:
        return False
    digest = hashlib.sha256(content[: place.start(1)])
    digest.update(_ZEROS.encode())
    digest.update(memoryview(content)[place.end(1) :])
    return digest.hexdigest().encode() == place[1]


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; `StateError` naming it where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StateError(f"{path}: no such file; is this a folder that robustlens wrote?") from error
    except OSError as error:
        raise StateError(f"{path}: cannot be read ({error.strerror or error}); restore it") from error


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The content of one of our JSON files in the present format, its seal checked.

    Args:
        path: the file.
        kind: of document, by which older formats are upgraded: "run", "evaluation", "study" ...

    Raises:
        StateError: the file is missing, damaged, sealed by another content, or of a newer format.
    """
    return parsed_json(read_bytes(path), kind, str(path))


def parsed_json(content: bytes, kind: str, where: str) -> dict[str, Any]:
    """As `read_json`, of bytes that are there; `where` names them in messages."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{where}: damaged JSON ({error}); restore it or delete the file") from error
    if not isinstance(values, dict):
        raise StateError(f"{where}: found a JSON {type(values).__name__}, expected an object")
    format_ = values.pop("format", 1)
    seal = values.pop("seal", None)
    check_format(format_, where)
    if (format_ > 1 or seal is not None) and not is_intact(content):
        raise StateError(_damaged(where))
    return upgraded(kind, values, format_)


def check_format(format_: Any, where: str) -> None:
    """Raise `StateError` for the format of a newer robustlens, or for what is no format."""
    if not isinstance(format_, int) or isinstance(format_, bool) or format_ < 1:
        raise StateError(
            f"{where}: found format {format_!r}, expected a number from 1 to {FORMAT}; restore the file"
        )
    if format_ > FORMAT:
        raise StateError(
            f"{where}: found format {format_}, expected at most {FORMAT}; a newer robustlens wrote it: upgrade"
        )


def _damaged(where: str) -> str:
    return f"{where}: damaged, its content does not have its seal; restore the file or make it again"


@dataclass(frozen=True)
class TensorsHeader:
    """What a safetensors file of ours says of itself; `seal` is None in a file of format 1."""

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
    seal = found_seal(content)
    try:
        values = json.loads(metadata.get(_HEADER) or "{}")
        format_ = values.get("format", 1)
    except (ValueError, AttributeError, RecursionError) as error:
        raise StateError(_damaged(where)) from error
    check_format(format_, where)
    if (format_ > 1 or seal is not None) and not is_intact(content):
        raise StateError(_damaged(where))
    return TensorsHeader(values, seal)


def read_header(path: Path) -> TensorsHeader:
    """The header of a safetensors file of ours, read and checked as by `check_tensors`."""
    return check_tensors(read_bytes(path), str(path), metadata_of(path))


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this metadata is of robustlens: it has our header, or a seal."""
    return _HEADER in metadata or re.fullmatch(r"[0-9a-f]{64}", metadata.get("seal", "")) is not None


@dataclass(eq=False)
class ArrayFile(Mapping[str, np.ndarray]):
    """Arrays of a safetensors file, by name: the file is verified once, and an array read when asked for.

    Args:
        path: the file. seal: that the result beside it names; None where it names none (format 1).
        prefix: of the names that are shown, and that is left out of them.
    """

    path: Path
    seal: str | None = None
    prefix: str = ""
    _checked: list[bool] = field(default_factory=lambda: [False], repr=False)
    _names: list[list[str]] = field(default_factory=list, repr=False)

    def under(self, prefix: str) -> "ArrayFile":
        """The arrays whose names begin with `prefix`, by the rest of their names."""
        return ArrayFile(self.path, self.seal, self.prefix + prefix, self._checked, self._names)

    def __getitem__(self, key: str) -> np.ndarray:
        with self._opened() as file:
            name = f"{self.prefix}{key}"
            if name not in self._all(file):
                raise KeyError(key)
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        with self._opened() as file:
            names = self._all(file)
        return (name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def verify(self) -> None:
        """Read the whole file once; raises `StateError` where it is missing, damaged or another one."""
        if self._checked[0]:
            return
        header = read_header(self.path)
        if self.seal is not None and header.seal != self.seal:
            raise StateError(f"{self.path}: does not belong to the result beside it; make that again")
        self._checked[0] = True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        self.verify()
        with opened(self.path) as file:
            yield file

    def _all(self, file: Any) -> list[str]:
        if not self._names:
            self._names.append(sorted(file.keys()))
        return self._names[0]


@contextlib.contextmanager
def opened(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """A safetensors file; `StateError` naming it where it is missing or damaged. No seal is checked."""
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError as error:
        raise StateError(f"{path}: no such file; run the step that writes it first") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise StateError(f"{path}: damaged ({error}); delete it and run the step again") from error


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with opened(path) as file:
        return dict(file.metadata() or {})


# -- one writer at a time ------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing. The kernel frees the lock when the process ends, however it ends.

    Raises:
        LockedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder}: another process is writing here; wait for it, or choose another --out"
            ) from error
        yield
