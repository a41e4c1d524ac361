"""A file put in its place as a whole, over another one or only where there is none."""

import os
import tempfile
import time
from pathlib import Path

_TRIES = 40 if os.name == "nt" else 1
_PAUSE = 0.05  # seconds between two tries


def replace(source: Path | str, path: Path) -> None:
    """Give `source` the name `path`, over the file that is there.

    Windows refuses while any process has that file open, a virus scanner for instance: then it is tried again
    for two seconds.

    Raises:
        OSError: it is refused still.
    """
    for left in reversed(range(_TRIES)):
        try:
            Path(source).replace(path)
            return
        except PermissionError:
            if not left:
                raise
            time.sleep(_PAUSE)


def place(path: Path, content: bytes, *, new: bool) -> int | None:
    """Put a file in its place, whole, and return its open handle, or None where that may not be kept open.

    Args:
        path: the place.
        content: of the file.
        new: whether there may be none so far.

    Raises:
        FileExistsError: it has to be new, and there is one already.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        os.write(handle, content)
        apply_umask(temporary)
        if os.name != "posix":
            os.close(handle)
        if not new or not _linked(temporary, path):
            replace(temporary, path)
    except BaseException:
        if os.name == "posix":
            os.close(handle)
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)
    return handle if os.name == "posix" else None


def apply_umask(temporary: Path | str) -> None:
    """Give a file of `mkstemp`, which its owner alone can read, the permissions of any other new file."""
    mask = os.umask(0)  # which can only be read by setting it
    os.umask(mask)
    Path(temporary).chmod(0o666 & ~mask)


def _linked(source: str, path: Path) -> bool:
    """Give `source` the name `path` as well: of several hosts one can. False where there are no links."""
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        return False
    return True
