"""Fingerprints of the files that a source is read from, by which a change is noticed without reading them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from robustlens.errors import DataError


def of_files(paths: Sequence[Path], root: Path) -> str:
    """Sixteen hexadecimal digits of the names below `root`, sizes and times of these files, in this order.

    Raises:
        DataError: a file is gone.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); restore it") from error
        name = path.relative_to(root).as_posix()
        line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
