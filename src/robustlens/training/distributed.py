"""Training on several devices: one process for each, started by torchrun, all of which move alike."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from robustlens.results.folders import Run, locked


class Onlooker(Run):
    """A run folder as all ranks but the first see it: it is read as ever, and nothing is written."""

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Leave it to the first rank."""

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Leave it to the first rank."""

    def write_bytes(self, file_name: str, content: bytes) -> None:
        """Leave it to the first rank."""

    def append_metrics(self, epoch: Mapping[str, Any]) -> None:
        """Leave it to the first rank."""


def fabric_for(precision: Any) -> Fabric:
    """One device; or, where torchrun has started several processes, this one's share of them."""
    size, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if size == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)
    fabric = Fabric(
        accelerator="auto", devices=here, num_nodes=size // here, strategy="ddp", precision=precision
    )
    fabric.launch()
    return fabric


def leave() -> None:
    """End together: a process that leaves early may abort the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def run_at(folder: Path) -> Run:
    """The run folder as this rank may use it."""
    return Run(folder) if is_main() else Onlooker(folder)


@contextlib.contextmanager
def held(run: Run) -> Iterator[None]:
    """Hold the folder for writing, if this rank writes at all; raises `LockedError`."""
    with locked(run.folder) if is_main() else contextlib.nullcontext():
        yield
