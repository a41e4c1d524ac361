"""Processes that torchrun starts together: which one this is, and what the first one says to all.

Only the first one reads folders that change, and it tells the others: what they see themselves may be older,
or another disk. An error of one is raised in all, so that none waits for a process that has ended.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from robustlens.errors import RobustlensError

_T = TypeVar("_T")
_LONGEST = timedelta(days=30)  # that one waits for the others


def count() -> int:
    """Processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """Processes that torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def are_connected() -> bool:
    """Whether the processes can tell each other anything yet."""
    import torch.distributed

    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect the processes while the block runs, for words and numbers of the CPU, not for training."""
    import torch.distributed

    if count() == 1 or are_connected():
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def told_by_first(make: Callable[[], _T]) -> _T:
    """Result of `make` in the first process, which calls it alone, in all processes.

    Raises:
        RobustlensError: the one that `make` raised, in all processes.
    """
    import torch.distributed

    if count() == 1:
        return make()
    message: list[tuple[_T | None, RobustlensError | None]] = [_attempt(make) if is_first() else (None, None)]
    torch.distributed.broadcast_object_list(message, src=0)
    result, error = message[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def all_finish(work: Callable[[], _T]) -> _T:
    """Result of `work`, which every process does for itself; all wait until all are done.

    Raises:
        RobustlensError: that of the first of them that raised one, in all processes.
    """
    import torch.distributed

    if count() == 1:
        return work()
    result, error = _attempt(work)
    errors: list[RobustlensError | None] = [None] * count()
    torch.distributed.all_gather_object(errors, error)
    for one in errors:
        if one is not None:
            raise one
    return result  # type: ignore[return-value]


def _attempt(make: Callable[[], _T]) -> tuple[_T | None, RobustlensError | None]:
    try:
        return make(), None
    except RobustlensError as error:
        return None, error
