"""Paths that a user gives."""

from pathlib import Path

from robustlens.errors import DataError


def path_of(text: str | Path) -> Path:
    """The path that a user means, which may lead to nothing; `~` is the user's home.

    Raises:
        DataError: the home of nobody, or a path that the system does not take, or does not let be looked at.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{text}: no home of such a user, expected a path") from error
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path  # whoever reads it says what is missing
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give another path") from error
    return path
