"""Signals that stop work: the first one is a request, and the work is saved; the next one ends the process.

The command line and its workers install this; a library call never does. Everything on disk can be gone on from
at any moment, so a second signal, or half a minute without an end, ends the process at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from robustlens.errors import StoppedError

PATIENCE = 30.0
"""Seconds from the first signal to the end of the process, whatever it is doing."""
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


class _Stopping:
    """State of this process: the signal that came, and whether its error waits for the end of a piece."""

    def __init__(self) -> None:
        self.name = ""
        self.waits = 0
        self.announced = threading.Lock()
        self.wakeup: socket.socket | None = None


_state = _Stopping()


def requested() -> bool:
    """Whether a signal asked this process to stop."""
    return bool(_state.name)


def check() -> None:
    """Raise `StoppedError` if a signal asked this process to stop."""
    if _state.name:
        raise StoppedError(f"stopped by {_state.name}; the same command goes on where it stopped")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait for the end of the block, where its error is raised.

    A block that can end early looks at `requested`.
    """
    _state.waits += 1
    try:
        yield
    finally:
        _state.waits -= 1
    if not _state.waits:
        check()


def announced() -> bool:
    """Whether the one line about the stop is said already; asking makes it so."""
    return not _state.announced.acquire(blocking=False)


@contextlib.contextmanager
def installed(last_words: Callable[[str], None], *, repeated: bool = True) -> Iterator[None]:
    """Handle signals while the block runs; inside another such block nothing changes.

    Args:
        last_words: says the line of an error, where the process ends from outside its main thread.
        repeated: whether a second signal ends the process at once; a worker leaves that to its parent.
    """
    if _state.wakeup is not None:
        yield
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number)
        for number in _SIGNALS
        if not (number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN)
    }
    own, other = socket.socketpair()
    other.setblocking(False)
    _state.wakeup, _state.name, _state.announced = other, "", threading.Lock()
    watcher = threading.Thread(target=_watch, args=(own, last_words, repeated), daemon=True)
    watcher.start()
    hook, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook)
    wakeup = signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
    try:
        for number in before:
            signal.signal(number, _request)
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        _state.wakeup, _state.name = None, ""
        other.close()
        watcher.join()


def ignore() -> None:
    """Take no more signals: the process is about to end, with its exit code decided."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end(code: int) -> None:
    """End this process now, without cleaning up: everything on disk is whole."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _request(number: int, frame: FrameType | None) -> None:
    """The handler: runs in the main thread, between two of its steps."""
    if _state.name:
        return  # the watcher has seen it, too
    _state.name = signal.Signals(number).name
    if not _state.waits:
        check()


def _watch(own: socket.socket, last_words: Callable[[str], None], repeated: bool) -> None:
    """End the process on a second signal, or when the first one's patience is over. Runs in a thread.

    The interpreter writes the number of a signal into the other end, even where the main thread is busy.
    """
    with own:
        first = own.recv(1)
        while first:
            own.settimeout(PATIENCE)
            try:
                again = own.recv(1)
            except TimeoutError:
                break
            if not again:
                return
            if repeated:
                break
        else:
            return
    if not announced():
        name = signal.Signals(first[0]).name
        last_words(f"stopped by {name}; the same command goes on where it stopped")
    end(StoppedError.exit_code)


def _quiet(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The hook for errors that nobody can catch, which leaves out a stop: it is raised again later."""

    def quiet(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, StoppedError):
            hook(unraisable)

    return quiet
