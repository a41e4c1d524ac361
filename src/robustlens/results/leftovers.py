"""Files that a killed save left unfinished, and who removes them."""

import contextlib
import re
import time
from pathlib import Path

from robustlens.results.links import inside, refuse_links

_UNFINISHED = re.compile(
    r"\.(lease|.+\.(json|jsonl|safetensors|u8|html|svg|pdf|png|csv|tex))\.[a-z0-9_]{8}\.tmp"
)
# Version 0.1 left out the ending. Others keep files beside ours, as `.settings.json.original`: so these
# names alone.
_OF_VERSION_0_1 = re.compile(
    r"(figures/\..+\.(svg|pdf|png|csv)"
    r"|.+/\.(run|recipe|study|claims|metrics|evaluation|explanation|state)[\w-]*\.\w+)\.[a-z0-9_]{8}"
)

_HOUR = 3600.0


def report_folder(folder: Path, out: Path | str | None) -> Path:
    """Folder of the report on a study or run, without what killed reports left there.

    Raises:
        StateError: a link leads out of it.
    """
    path = inside(folder, "report") if out is None else Path(out)
    if path.is_dir():
        refuse_links(path)
        sweep(path, older=_HOUR)
    return path


def sweep(folder: Path, *, older: float = 0.0) -> None:
    """Remove the unfinished files in a folder and below it, but for reports and folders with their own lock.

    Hidden folders are those of others.

    Args:
        folder: that this process may write to alone.
        older: seconds for which a file must not have changed, where other processes may write as well.
    """
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.name in ("report", "tracking") or (path / "lock").exists():
                continue
            if path.is_dir() and not path.name.startswith("."):
                sweep(path, older=older)
            elif _is_unfinished(path) and time.time() - path.stat().st_mtime >= older:
                path.unlink()


def _is_unfinished(path: Path) -> bool:
    in_folder = f"{path.parent.name}/{path.name}"
    return bool(_UNFINISHED.fullmatch(path.name) or _OF_VERSION_0_1.fullmatch(in_folder))
