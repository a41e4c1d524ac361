"""The command line: errors become one line and an exit code, signals a stop that can be resumed."""

import os
import signal
import sys
import traceback
from types import FrameType

from robustlens.cli.commands import app
from robustlens.cli.display import console
from robustlens.errors import ResourceError, RobustlensError, StoppedError, out_of_memory
from robustlens.machine import keep_memory

__all__ = ["main", "run"]


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code (see `robustlens.errors`)."""
    keep_memory()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _stop)
    try:
        app(args=argv, prog_name="robustlens")
    except SystemExit as done:  # how the parser ends: help, a usage error, or the end of a command
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except RobustlensError as error:
        return _fail(error)
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(ResourceError(f"{error.filename or 'disk'}: {error.strerror}"))
    except Exception as error:
        if not out_of_memory(error):
            raise
        return _fail(ResourceError("out of memory; lower the batch size, the limits or --workers"))
    return 0


def main() -> None:
    """Entry point of the `robustlens` command."""
    sys.exit(run())


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(f"stopped by {signal.Signals(number).name}; the same command goes on where it stopped")


def _fail(error: RobustlensError) -> int:
    if os.environ.get("ROBUSTLENS_DEBUG"):
        traceback.print_exception(error)
    console.print("[bold red]error:[/] ", end="")
    console.print(" ".join(str(error).split()), markup=False, soft_wrap=True)
    return error.exit_code
