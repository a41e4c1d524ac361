"""Files written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic


class PeriodicWriter:
    """One write at a time in a thread, not more often than asked for.

    Args:
        write: writes a file's content.
        minutes: between the end of one write and the begin of the next; infinite for none.
    """

    def __init__(self, write: Callable[[bytes], None], minutes: float) -> None:
        self._write, self._seconds = write, 60 * minutes
        self._pending: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._began = monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time for another write, and the one before has ended."""
        busy = self._pending is not None and not self._pending.done()
        return not busy and monotonic() - self._began >= self._seconds

    def start(self, content: bytes) -> None:
        """Write `content` in the thread; raises what the write before has raised."""
        self.finish()
        self._began = monotonic()
        self._pending = self._thread.submit(self._write, content)

    def finish(self) -> None:
        """Wait until the file is written; raises what the write has raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
