"""Files of a run and of a study: written atomically, sealed, and checked by whoever reads them.

A *seal* is the SHA-256 of a file's exact bytes with the seal's own 64 digits taken as zeros. JSON keeps it as
the last key, `metrics.jsonl` in each line, safetensors in the metadata. A file of format 1 has none: it is
read, reported as unsealed by `verify`, and never rewritten.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from robustlens.errors import ResourceError, StateError
from robustlens.results.locks import check_lease
from robustlens.results.placing import apply_umask, replace
from robustlens.results.upgrade import upgraded
from robustlens.results.values import plain

FORMAT = 2
"""Version of the files of a run or study folder; raised when a reader of the old one would misread them."""

_DIGITS = 64
ZEROS = "0" * _DIGITS
_SEALED_JSON = re.compile(rb'"seal": "([0-9a-f]{64})"\s*\}\s*\Z')
SEALED_TENSORS = re.compile(rb'"seal":"([0-9a-f]{64})"')


# -- writing -------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes | memoryview, *, previous: Path | None = None) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Args:
        path: the file, in a folder whose lease this process holds, or which has none.
        content: of the file.
        previous: where the file that was there is kept.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
        LockedError: another process took over the folder.
    """
    check_lease(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            apply_umask(temporary)
            check_lease(path)  # writing may have taken long
            if previous is not None and path.exists():
                replace(path, previous)
            replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _not_written(path, error) from error


def check_writable(path: Path) -> None:
    """Refuse a file that `write_atomic` could not write, before the work whose result it is to hold.

    Raises:
        ResourceError: its folder cannot be written, or there is a folder of that name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ResourceError:
    why = error.strerror or error
    return ResourceError(f"{path}: cannot be written ({why}); free some space or choose another --out")


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, where there is one.

    Raises:
        LockedError: another process took over the folder that it lies in, and may have written it.
    """
    check_lease(path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: Any, kind: str = "") -> None:
    """Write a document or a mapping as indented, sealed JSON. NaN and infinity become null."""
    write_atomic(path, sealed_json(content, kind))


def sealed_json(content: Any, kind: str = "", *, indent: int | None = 1) -> bytes:
    """A document as JSON that carries its format, its kind and its seal, with a line break at the end."""
    values = {"format": FORMAT, **({"kind": kind} if kind else {}), **plain(content), "seal": ZEROS}
    return sealed((json.dumps(values, indent=indent, allow_nan=False) + "\n").encode(), _SEALED_JSON)


def sealed(content: bytes, pattern: re.Pattern[bytes]) -> bytes:
    """`content` with the seal in place of the zeros."""
    place = pattern.search(content)
    assert place is not None
    start, end = place.span(1)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[end:]


# -- reading -------------------------------------------------------------------------------------------


def seal_of(content: bytes) -> str | None:
    """The seal that a file of ours carries, or None; it is not checked."""
    place = _place_of_seal(content)
    return None if place is None else place[1].decode()


def is_intact(content: bytes) -> bool:
    """Whether the seal that a file carries is that of its bytes."""
    place = _place_of_seal(content)
    if place is None:
        return False
    digest = hashlib.sha256(content[: place.start(1)])
    digest.update(ZEROS.encode())
    digest.update(memoryview(content)[place.end(1) :])
    return digest.hexdigest().encode() == place[1]


def _place_of_seal(content: bytes) -> re.Match[bytes] | None:
    """JSON begins with a brace, safetensors with the length of its header; arrays may hold any text."""
    if content.startswith(b"{"):
        return _SEALED_JSON.search(content)
    return SEALED_TENSORS.search(content[: 8 + int.from_bytes(content[:8], "little")])


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; `StateError` naming it where it is missing or cannot be read."""
    try:
        require_plain_file(path)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StateError(f"{path}: no such file; is this a folder that robustlens wrote?") from error
    except OSError as error:
        raise StateError(f"{path}: cannot be read ({error.strerror or error}); restore it") from error


def require_plain_file(path: Path) -> None:
    """Raise `StateError` for a pipe or a device, which has no end, and `OSError` where nothing is there."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise StateError(f"{path}: is no plain file; restore it")


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The content of one of our JSON files in the present format, its seal checked.

    Args:
        path: the file.
        kind: of document, by which older formats are upgraded: "run", "evaluation", "study" ...; "" for any.

    Raises:
        StateError: the file is missing, damaged, of another content than its seal's, of another kind, or of a
            newer format.
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
        raise StateError(damaged(where))
    own = values.pop("kind", kind)
    if kind and own != kind:
        raise StateError(f"{where}: found a document of kind {own!r}, expected {kind!r}; restore the file")
    return upgraded(kind, values, format_)


def check_format(format_: Any, where: str) -> None:
    """Raise `StateError` for the format of a newer robustlens, or for what is no format."""
    if not isinstance(format_, int) or isinstance(format_, bool) or format_ < 1:
        raise StateError(
            f"{where}: found format {format_!r}, expected a number from 1 to {FORMAT}; restore the file"
        )
    if format_ > FORMAT:
        raise StateError(
            f"{where}: found format {format_}, expected at most {FORMAT}; "
            "a newer robustlens wrote it: upgrade yours"
        )


def damaged(where: str) -> str:
    """The message for a file that does not have its seal."""
    return f"{where}: damaged, its content does not have its seal; restore the file or make it again"
