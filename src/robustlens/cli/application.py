"""The application that the commands belong to."""

import os
from typing import Annotated, Any

import typer
import typer.core

from robustlens.errors import ModelError
from robustlens.version import __version__


class _Commands(typer.core.TyperGroup):
    """The commands; the parser ends them by exceptions of its own, so a `SystemExit` is somebody else's."""

    def invoke(self, ctx: Any) -> Any:
        """Carry out the command; raises `ModelError` where code that it called tried to end the process."""
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # `... | head`: rich ends as the parser does
                raise
            raise ModelError(
                f"code outside robustlens called sys.exit({error.code!r}), expected it to return or to raise"
            ) from error


app = typer.Typer(
    cls=_Commands,
    help="Train robust networks, attack them honestly, and see what robustness did to them.",
    epilog="Start with: robustlens study quickstart. Every command has its own --help.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"robustlens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["ROBUSTLENS_DEBUG"] = "1"
