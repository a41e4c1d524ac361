"""Paths inside a folder of ours: nothing outside it is read or written through a link."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from robustlens.errors import StateError


class OwnFolder:
    """A folder of ours, which goes wherever a path goes.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)


def inside(folder: Path, *names: str) -> Path:
    """The path of `names` in `folder`.

    Raises:
        StateError: a name is no relative path, or a link on the way leads out of the folder.
    """
    for name in names:
        if not _stays_below(name):
            raise StateError(f"{folder}: found the path {name[:80]!r}, expected one inside this folder")
    path = folder.joinpath(*names)
    if _passes_link(folder, path):
        _check(path, folder, os.path.realpath(folder))
    return path


@lru_cache(maxsize=1000)
def _stays_below(name: str) -> bool:
    """Whether it is a relative path, on any system, that does not go up."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    return not (rooted or ".." in parts or "\0" in name or not parts)


def _passes_link(folder: Path, path: Path) -> bool:
    """Whether there is a link on the way from `folder` to `path`: without one, nothing leads out of it.

    On Windows there may always be one: its junctions are none to `islink`.
    """
    parents = path.parents[: len(path.parts) - len(folder.parts) - 1]
    return os.name == "nt" or any(map(os.path.islink, (path, *parents)))


def refuse_links(folder: Path) -> None:
    """Raise `StateError` naming the first link in `folder`, at any depth, that leads out of it."""
    for error in links_out(folder).values():
        raise error


def links_out(folder: Path) -> dict[Path, StateError]:
    """Every link in `folder`, at any depth, that leads out of it, and what is wrong with it.

    Hidden folders are those of others: a `.venv` beside a run is full of such links.
    """
    root, errors = os.path.realpath(folder), {}
    for path in _links(folder):
        try:
            _check(path, folder, root)
        except StateError as error:
            errors[path] = error
    return errors


def _check(path: Path, folder: Path, root: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        raise StateError(
            f"{path}: is a link out of {folder}, to {real}; put the file itself there, or remove the link"
        )


def _links(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in sorted((*folders, *names)))
        yield from (path for path in paths if path.is_symlink())
