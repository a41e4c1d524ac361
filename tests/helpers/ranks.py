"""Ranks of a training as torchrun starts them, forked from one process that has imported torch already."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import robustlens as rl
from robustlens.config import Recipe, checked
from robustlens.data import Splits, from_tensors
from robustlens.errors import RobustlensError
from robustlens.progress import Event, silent
from robustlens.training import distributed, fabric  # noqa: F401 - what each rank needs, imported once for all

RECIPE: dict[str, Any] = {
    "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
    "attack": {"steps": 2},
    "optimizer": {"epochs": 2, "batch_size": 16, "lr": 0.05, "accumulate": 2},
    "data": {"name": "arrays", "augment": "crop-flip"},
    "monitor": {"examples": 40, "steps": 1},
    "awp": {"gamma": 0.01},
    "objective": "trades",
}


def images(seed: int = 0) -> Splits:
    """64 images of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(64, 1, 8, 8, generator=generator) * 255).to(torch.uint8)
    return from_tensors(x, torch.arange(64) % 3, x, torch.arange(64) % 3)


def in_ranks(number: int, work: Callable[[int], None], seconds: float = 240.0) -> list[int]:
    """Exit codes of `work(rank)` in so many processes; when one fails, the others are killed, as torchrun does.

    A process that is killed so, or is not done in time, has the code -9.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = {_forked(rank, number, port, work): rank for rank in range(number)}
    codes, end = dict.fromkeys(range(number), -9), time.monotonic() + seconds
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[children.pop(pid)] = os.waitstatus_to_exitcode(status)
        if (pid and os.waitstatus_to_exitcode(status)) or time.monotonic() > end:
            time.sleep(2.0)  # the others may see it for themselves
            for other in children:
                os.kill(other, 9)
            end = float("inf")
        time.sleep(0.02)
    return [codes[rank] for rank in range(number)]


def _forked(rank: int, number: int, port: int, work: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    known: dict[str, Any] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": number,
        "LOCAL_WORLD_SIZE": number,
    }
    known |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in known.items()} if number > 1 else {})
    code = 1
    try:
        work(rank)
        code = 0
    except RobustlensError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def training(
    out: str, *, die: int | None = None, seed: int | None = None, strays: str | None = None, **changes: Any
) -> Callable[[int], None]:
    """Work of a rank: `RECIPE`, with changes, into the folder `out`.

    `die` is a rank that ends in the second epoch, as one that is killed; `strays` the folder that ranks other than
    the first one see; `seed` that of their images.
    """

    def work(rank: int) -> None:
        torch.set_num_threads(1)

        def listen(event: Event) -> None:
            if event.phase == "train" and event.done > event.total / 2:
                os._exit(17)

        recipe = checked(Recipe, RECIPE | changes, "recipe")
        folder = strays if strays is not None and rank else out
        splits = images(seed if seed is not None and rank else 0)
        rl.train(recipe, folder, splits=splits, progress=listen if rank == die else silent)
        distributed.shutdown()

    return work


if __name__ == "__main__":  # [[ranks, {arguments of `training`}], ...] -> exit codes of each
    print(json.dumps([in_ranks(number, training(**given)) for number, given in json.loads(sys.argv[1])]))
