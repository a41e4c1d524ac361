"""Processes for runs on this machine: forked from one that has imported what runs need, or started anew.

Importing torch, and what training needs beside it, takes as long as some epochs of a small network. On Linux
without CUDA devices one process imports it (`multiprocessing`'s fork server), and each worker is its fork.
A process that has seen a CUDA device must not fork, and elsewhere forks are unsafe or absent: there each
worker imports it all.

`multiprocessing` lets each new process import the caller's script, which runs one without
`if __name__ == "__main__":` from its top, with the study in it. Here a worker imports the script only where
its jobs name something of it.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker, spawn
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from robustlens import machine, registry, stopping
from robustlens.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def context(modules: Sequence[str], device: str | None) -> "ForkServerContext | SpawnContext":
    """Where processes come from that need these modules, and see this CUDA device: "" none, None all."""
    sees_none = device == "" or (device is None and not machine.devices())
    if not (sees_none and sys.platform.startswith("linux")):
        return multiprocessing.get_context("spawn")
    forks = multiprocessing.get_context("forkserver")
    imports = ["torch", *dict.fromkeys(modules), "robustlens.executors.fork_server"]
    forks.set_forkserver_preload(imports)  # one that fails is left to the worker
    return forks


def start(
    where: "ForkServerContext | SpawnContext",
    name: str,
    settings: Mapping[str, str],
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> BaseProcess:
    """Start `work(*arguments)` with the environment of this process, changed by `settings`.

    Signals are blocked in the new process until the work calls `unblock`, and in the one that forks it for
    good: Ctrl-C and the signals of a scheduler reach all processes of a group, and the fork server has to
    live on to tell how its children ended.
    """
    environment = {**os.environ, **settings}
    # BLAS outside torch reads its threads once: it has one in every fork, whichever worker is the first.
    forks = where.get_start_method() == "forkserver"
    seen = {**settings, **_ONE_THREAD} if forks else settings
    with _environment(seen), _signals_blocked(), _script_hidden():
        process = where.Process(target=_begin, args=(environment, work, arguments), name=name, daemon=True)
        process.start()
    return process


def script_for(pickled: bytes) -> dict[str, str]:
    """The caller's script as `import_script` takes it; empty where a worker does without.

    Jobs need it that name something of it, "__main__:factory" for instance, or an entry that a program has
    added to a registry.

    Args:
        pickled: the jobs.
    """
    if b"__main__" not in pickled and not registry.has_additions():
        return {}
    told = spawn.get_preparation_data("")
    return {key: told[key] for key in ("init_main_from_name", "init_main_from_path") if key in told}


def import_script(script: Mapping[str, str]) -> None:
    """Import the caller's script as `__main__` of this process, as `multiprocessing` does.

    Raises:
        ConfigError: it fails here, since what only the first process should do is done in it.
    """
    try:
        spawn.prepare(dict(script))
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:  # it can raise anything, and has not in the first process
        raise ConfigError(
            f"{' '.join(script.values())}: workers import it for what it defines, and it failed "
            f"({registry.one_line(error)}); put what it runs under if __name__ == '__main__':"
        ) from error


def unblock() -> None:
    """Let signals through to the handlers that the worker has set."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(stopping.SIGNALS) - {signal.SIGINT})


def _begin(environment: Mapping[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The first function of a new process, which gives a fork what others begin with."""
    os.environ.clear()
    os.environ.update(environment)
    torch = sys.modules.get("torch")
    if torch is not None:  # a fork: torch and numpy are as in its server
        import numpy as np

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
        np.random.seed()  # noqa: NPY002 - the state that a user's code may draw from
    work(*arguments)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Inside, `multiprocessing` sees no script that a new process could import."""
    main = vars(sys.modules["__main__"])
    before: dict[str, Any] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(before)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would lift the block when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(stopping.SIGNALS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
