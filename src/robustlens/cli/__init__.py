"""The command line: errors become one line and an exit code, signals a stop that can be resumed."""

import os
import traceback

from robustlens import stopping
from robustlens.__main__ import main
from robustlens.cli import (  # noqa: F401 - they fill the application
    about_commands,
    commands,
    data_commands,
    report_commands,
    sharing_commands,
)
from robustlens.cli.application import app
from robustlens.cli.display import console, print_titled, write_in_any_encoding
from robustlens.errors import (
    ModelError,
    ResourceError,
    RobustlensError,
    StoppedError,
    of_system,
    out_of_memory,
)
from robustlens.machine import keep_memory

__all__ = ["main", "run", "write_in_any_encoding"]


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code (see `robustlens.errors`)."""
    with stopping.handled():
        try:
            code = _run(argv)
            stopping.check()  # libraries swallow errors, a stop among them
            return code
        except BaseException as error:
            if not stopping.requested():
                raise
            # A stop may come to light as any error of the library that it met.
            return _stopped(error)


def _run(argv: list[str] | None) -> int:
    keep_memory()
    try:
        app(args=argv, prog_name="robustlens")
    except SystemExit as done:  # how the parser ends: help, a usage error, or the end of a command
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except StoppedError:
        raise
    except RobustlensError as error:
        if stopping.requested():
            raise
        return _fail(error)
    except Exception as error:
        failure = of_system(error)
        if failure is not None:
            return _fail(failure)
        if out_of_memory(error):
            return _fail(ResourceError("out of memory; lower the batch size, the limits or --workers"))
        if not _is_of_a_network(error):
            raise
        text = " ".join(str(error).split())
        return _fail(ModelError(f"model: fails in its forward pass: {type(error).__name__}: {text}"))
    return 0


def _is_of_a_network(error: Exception) -> bool:
    """Whether an error was raised inside a call of an `nn.Module`: no attack or measure of ours is one."""
    return any(frame.f_code.co_name == "_call_impl" for frame, _ in traceback.walk_tb(error.__traceback__))


def _stopped(error: BaseException) -> int:
    if os.environ.get("ROBUSTLENS_DEBUG"):
        traceback.print_exception(error)
    try:
        stopping.check()
    except StoppedError as stop:
        stopping.announce(str(stop))
    return StoppedError.exit_code


def _fail(error: RobustlensError) -> int:
    if os.environ.get("ROBUSTLENS_DEBUG"):
        traceback.print_exception(error)
    print_titled(console, "[bold red]error:[/] ", " ".join(str(error).split()))
    return error.exit_code
