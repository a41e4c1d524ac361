"""Folders that earlier versions of robustlens wrote, unpacked into a temporary folder.

`golden/format-1.tar.xz` holds what version 0.1.0 wrote before files were sealed: `study` (seven networks, two
seeds, best, last and every epoch measured, its claims and the CSV files of its report), `whole` (AWP and a
weight average, evaluated), `training` (the same recipe, stopped after its second epoch) and `evaluating` (the
same run, its evaluation stopped). All were made with one thread.
"""

import tarfile
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def unpack(name: str, folder: Path) -> Path:
    """Unpack `golden/<name>.tar.xz` into `folder` and return it."""
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as archive:
        # Python has filters since 3.11.4; where it has none, the attribute is not read.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return folder
