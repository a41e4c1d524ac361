"""What a worker on another machine has to share with the study: folder, importable modules, version."""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from robustlens.version import __version__


@dataclass(frozen=True)
class Place:
    """Where a study runs, and its workers too: the folder that paths start from, and what is imported.

    Attributes:
        folder: the working directory. paths: `sys.path`. version: of robustlens.
    """

    folder: str
    paths: tuple[str, ...]
    version: str

    @classmethod
    def here(cls) -> "Place":
        """The place of this process."""
        return cls(str(Path.cwd()), tuple(sys.path), __version__)

    def problem(self) -> str:
        """What keeps this process from working as there; empty where nothing does."""
        on = socket.gethostname()
        if self.version != __version__:
            return f"found robustlens {__version__} on {on}, expected {self.version} as where the study runs"
        if not Path(self.folder).is_dir():
            return f"found no folder {self.folder} on {on}, expected one that every machine sees"
        return ""

    def enter(self) -> None:
        """Read paths and import modules as there."""
        os.chdir(self.folder)
        sys.path.extend(path for path in self.paths if path not in sys.path)
