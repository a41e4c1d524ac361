"""Training on several devices: one process for each, started by torchrun, all of which compute alike."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from robustlens import machine, processes
from robustlens.results import Run
from robustlens.results.locks import locked

if TYPE_CHECKING:
    from lightning_fabric import Fabric

IMPORTED_LATE = ("robustlens.training.fabric", "torch._dynamo")
"""Modules that training imports when it begins, and that take as long as torch itself."""


def products(precision: str) -> Literal["ieee", "tf32"]:
    """Kind of float32 products in which a recipe of this precision trains, for `float32_products`."""
    return "tf32" if precision == "tf32" else "ieee"


def fabric_for(precision: Any, device: str = "auto") -> "Fabric":
    """Fabric of one device or, where torchrun has started several processes, of this one's share of them.

    Its numbers of "tf32" are float32: how they are multiplied is torch's setting (`products`).
    """
    from robustlens.training.fabric import Fabric  # half of the time that importing this package would take

    precision = "32-true" if precision == "tf32" else precision
    chosen, count = machine.device(device), processes.count()
    if count == 1:
        place: Any = 1 if chosen.index is None else [chosen.index]
        return Fabric(accelerator=chosen.type, devices=place, precision=precision)
    fabric = Fabric(
        accelerator=chosen.type,
        devices=processes.local_count(),
        num_nodes=count // processes.local_count(),
        strategy="ddp",
        precision=precision,
    )
    fabric.launch()
    return fabric


def connect(precision: str, device: str = "auto") -> None:
    """Let the processes that torchrun started hear of each other, before any of them reads a folder."""
    if processes.count() > 1:
        fabric_for(precision, device)


def mean_over_ranks(fabric: "Fabric", value: Tensor) -> float:
    """Mean of a scalar over the ranks, the same on all, so that no rank goes on where another stops."""
    mean = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def averaging(fabric: "Fabric", network: nn.Module) -> nn.Module:
    """`network`, whose backward passes average gradients over the ranks.

    Without what `fabric.setup_module` adds in mixed precision: it lets `fabric.backward` alone differentiate
    logits, where objectives take gradients of images, and rounds images before the network normalises them.
    """
    return fabric.strategy.setup_module(network)


def averaged_over_ranks(
    fabric: "Fabric", network: nn.Module, average: bool
) -> contextlib.AbstractContextManager[None]:
    """Average the gradients of the passes inside over the ranks, or leave that to a later pass.

    `network` is what `averaging` gives; passes forwards belong inside, too.
    """
    if fabric.world_size == 1 or average:
        return contextlib.nullcontext()
    shared: Any = network
    return shared.no_sync()


_T = TypeVar("_T")


def shared(count: int, work: Callable[[int], _T]) -> list[_T]:
    """Results of `work` for 0, 1, ... `count` - 1, on all ranks, each of which does every so many-th."""
    ranks, own = processes.count(), {}
    for place in range(processes.rank() if ranks > 1 else 0, count, ranks):
        own[place] = work(place)
    parts: list[dict[int, _T]] = [own] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(parts, own)
    return [parts[place % ranks][place] for place in range(count)]


@torch.no_grad()
def same_buffers(network: nn.Module) -> None:
    """Give the network of every rank the buffers of the first one's."""
    for buffer in network.buffers() if processes.count() > 1 else ():
        torch.distributed.broadcast(buffer, src=0)


def shutdown() -> None:
    """End together: a process that ends early may abort the others."""
    if processes.are_connected():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def run_at(folder: Path) -> Run:
    """Run folder as this rank may use it: all but the first only read."""
    return Run(folder, read_only=not processes.is_first())


@contextlib.contextmanager
def writer_lock(run: Run) -> Iterator[None]:
    """Lock the folder for writing, by the rank that writes; raises `LockedError` on all."""
    with contextlib.ExitStack() as stack:
        processes.told_by_first(lambda: None if run.read_only else stack.enter_context(locked(run.folder)))
        yield
