"""One writer at a time in a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from robustlens.errors import LockedError


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
