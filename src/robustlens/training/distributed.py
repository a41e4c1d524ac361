"""Training on several devices: one process for each, started by torchrun, all of which compute alike."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from robustlens import machine
from robustlens.results import Run
from robustlens.results.locks import locked


def products(precision: str) -> Literal["ieee", "tf32"]:
    """Kind of float32 products in which a recipe of this precision trains, for `float32_products`."""
    return "tf32" if precision == "tf32" else "ieee"


def fabric_for(precision: Any, device: str = "auto") -> Fabric:
    """Fabric of one device or, where torchrun has started several processes, of this one's share of them.

    Its numbers of "tf32" are float32: how they are multiplied is torch's setting (`products`).
    """
    precision = "32-true" if precision == "tf32" else precision
    processes, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    chosen = machine.device(device)
    if processes == 1:
        place: Any = 1 if chosen.index is None else [chosen.index]
        return Fabric(accelerator=chosen.type, devices=place, precision=precision)
    fabric = Fabric(
        accelerator=chosen.type,
        devices=local,
        num_nodes=processes // local,
        strategy="ddp",
        precision=precision,
    )
    fabric.launch()
    return fabric


def mean_over_ranks(fabric: Fabric, value: Tensor) -> float:
    """Mean of a scalar over the ranks, the same on all, so that no rank goes on where another stops."""
    mean = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def shutdown() -> None:
    """End together: a process that ends early may abort the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def run_at(folder: Path) -> Run:
    """Run folder as this rank may use it: all but the first only read."""
    return Run(folder, read_only=not is_main())


@contextlib.contextmanager
def writer_lock(run: Run) -> Iterator[None]:
    """Lock the folder for writing, if this rank writes at all; raises `LockedError`."""
    with contextlib.nullcontext() if run.read_only else locked(run.folder):
        yield
