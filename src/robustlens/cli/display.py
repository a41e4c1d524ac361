"""Progress on the screen: bars on a terminal, plain lines otherwise, nothing with --quiet."""

import codecs
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from robustlens.progress import DONE, ENDED, Event

if TYPE_CHECKING:
    from rich.progress import TaskID

NamedListener = Callable[[str, Event], None]
_LINE_EVERY = 15.0  # seconds between plain lines of one piece of work

# Names, paths and errors are not ours: "[/x]" in a path is no markup, and ":x:" no emoji.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)
output = Console(highlight=False, markup=False, emoji=False)


_ASCII = {"\u2212": "-", "\u2013": "-", "\u00d7": "x", "\u2026": "..."}


def write_in_any_encoding() -> None:
    """Let standard output take every text, also where it goes to a file in the encoding of old Windows."""
    codecs.register_error("robustlens.readable", _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="robustlens.readable")


def _readable(error: UnicodeError) -> tuple[str, int]:
    """What a stream writes for characters that its encoding lacks: signs of ours in ASCII, others escaped."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    written = (_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in characters)
    return "".join(written), error.end


def print_titled(where: Console, title: str, text: str) -> None:
    """Print one line: a title of ours with markup, and a text that may hold anything."""
    where.print(title, end="", markup=True)
    where.print(text, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print a document or a mapping as JSON on standard output; what is not finite is null."""
    from robustlens.results.values import plain

    sys.stdout.write(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def shown(quiet: bool = False) -> Iterator[NamedListener]:
    """A listener for (name, event) that shows progress while the context is open."""
    if quiet:
        yield lambda name, event: None
    elif console.is_terminal:
        with _bars() as listener:
            yield listener
    else:
        yield _lines()


@contextlib.contextmanager
def _bars() -> Iterator[NamedListener]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[name]}", style="bold", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, tuple[TaskID, str]] = {}

        def listen(name: str, event: Event) -> None:
            known = tasks.get(name)
            if known is None or known[1] != event.phase:
                if known is not None:
                    progress.remove_task(known[0])
                if event.phase in (DONE, ENDED):  # a line above the bars, which have room for what is at work
                    tasks.pop(name, None)
                    progress.console.print(_line(name, event), soft_wrap=True)
                    return
                task = progress.add_task(event.phase, total=event.total, name=name, note="")
                tasks[name] = (task, event.phase)
            progress.update(tasks[name][0], completed=event.done, total=event.total, note=event.note)

        yield listen


def _lines() -> NamedListener:
    last_shown: dict[str, tuple[str, float]] = {}

    def listen(name: str, event: Event) -> None:
        phase, when = last_shown.get(name, ("", 0.0))
        now = time.monotonic()
        if event.phase != phase or now - when >= _LINE_EVERY:
            last_shown[name] = (event.phase, now)
            console.print(_line(name, event), soft_wrap=True)

    return listen


def _line(name: str, event: Event) -> str:
    note = f" ({event.note})" if event.note else ""
    return f"{name}: {event.phase} {event.done}/{event.total}{note}"
