"""Signals that stop work: the first one is a request, and the work is saved; the next one ends the process.

The command line and its workers handle signals so; a library call never does. Everything on disk can be gone
on from at any moment, so a second signal, or half a minute without an end, ends the process at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from robustlens.errors import StoppedError

PATIENCE = 30.0
"""Seconds from the first signal to the end of the process, whatever it is doing."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


class _Stopping:
    """State of this process: the signal that came, how many blocks it waits for, and what was said of it."""

    def __init__(self) -> None:
        self.name = ""
        self.waits = 0
        self.watched = False
        self.speaking = threading.Lock()
        self.announced = False


_state = _Stopping()


def requested() -> bool:
    """Whether a signal asked this process to stop."""
    return bool(_state.name)


def check() -> None:
    """Raise `StoppedError` if a signal asked this process to stop."""
    if _state.name:
        raise StoppedError(_line(_state.name))


def terminate() -> None:
    """Send this process a SIGTERM, from whatever thread."""
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGTERM)
    else:  # where os.kill would end it at once
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait for the end of the block, where its error is raised.

    A block that can end early asks `requested`.
    """
    _state.waits += 1
    try:
        yield
    finally:
        _state.waits -= 1
    if not _state.waits:
        check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal raise its error at once, inside a block that defers it."""
    waits, _state.waits = _state.waits, 0
    try:
        check()
        yield
    finally:
        _state.waits = waits


def announce(line: str) -> None:
    """Write the one line of a stop to the terminal; a second line of this process is left out.

    Where nobody reads what this process writes, it ends after a second without its line.
    """
    speaker = threading.Thread(target=_speak, args=(line,), daemon=True)
    speaker.start()
    speaker.join(timeout=1.0)
    if speaker.is_alive():
        os._exit(StoppedError.exit_code)


def _speak(line: str) -> None:
    with _state.speaking, contextlib.suppress(OSError, ValueError):
        if not _state.announced and sys.stderr is not None:  # None under pythonw, and after 2>&-
            _state.announced = True
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # progress bars hide it
            sys.stderr.write(f"{cursor}error: {line}\n")
            sys.stderr.flush()


@contextlib.contextmanager
def handled(*, last: bool = False, worker: bool = False) -> Iterator[None]:
    """Handle signals while the block runs; inside another such block nothing changes.

    Args:
        last: nothing comes after the block but the end of the process, which no signal may disturb.
        worker: leave the terminal, Ctrl-C and second signals to the parent, which ends its workers.
    """
    if _state.watched:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A command under nohup goes on without its terminal.
    caught = [n for n in before if signal.Signals(n).name != "SIGHUP" or before[n] is not signal.SIG_IGN]
    own, other = socket.socketpair()
    other.setblocking(False)
    _state.watched, _state.announced = True, worker
    watcher = threading.Thread(target=_watch, args=(own, worker), daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
    hook, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook)
    try:
        for number in caught:
            ignored = worker and number == signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else _request)
        yield
    finally:
        _state.waits += 1  # a signal that comes here finds the work done
        for number in caught:
            signal.signal(number, signal.SIG_IGN if last else before[number])
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = hook
        other.close()
        watcher.join()
        _state.waits -= 1
        _state.watched, _state.name = False, ""


def _line(name: str) -> str:
    return f"stopped by {name}; the same command goes on where it stopped"


def _request(number: int, frame: FrameType | None) -> None:
    """The handler: runs in the main thread, between two of its steps. The watcher sees second signals."""
    if not _state.name:
        _state.name = signal.Signals(number).name
        if not _state.waits:
            check()


def _watch(own: socket.socket, worker: bool) -> None:
    """End the process on a second signal, or when the first one's patience is over. Runs in a thread.

    The interpreter writes the number of a signal into the other end even where the main thread is busy.
    """
    with own:
        first = again = _signal(own)
        end = time.monotonic() + (0.8 if worker else 1.0) * PATIENCE
        with contextlib.suppress(TimeoutError):
            while again:
                own.settimeout(max(0.01, end - time.monotonic()))
                again = _signal(own)
                if not worker:
                    break
    if again:
        announce(_line(signal.Signals(first).name))
        os._exit(StoppedError.exit_code)


def _signal(own: socket.socket) -> int:
    """Number of the next signal that stops work; 0 where the block is over."""
    number = -1
    while number not in (0, *SIGNALS):
        number = int.from_bytes(own.recv(1), "big")
    return number


def _quiet(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The hook for errors that nobody can catch, without those of a stop: work asks for it again."""

    def quiet(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, StoppedError):
            hook(unraisable)

    return quiet
