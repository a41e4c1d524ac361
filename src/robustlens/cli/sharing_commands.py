"""Commands that give runs to others: `robustlens push`.

A command imports what it works with, as in `commands`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from robustlens.cli.application import app
from robustlens.cli.display import console, output, print_json, print_titled
from robustlens.cli.options import Json, Quiet
from robustlens.errors import ConfigError


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    repository: Annotated[
        str | None, typer.Argument(help="Repository on the Hugging Face Hub: owner/name.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Write the files to this folder instead; no network is needed.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everyone see a new repository. Default: its owner alone.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over another run, or beside other files, that are there.")
    ] = False,
    license_id: Annotated[
        str | None, typer.Option("--license", help="Licence that the card names: mit, apache-2.0 ...")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Push a run to the Hugging Face Hub: weights, documents and a model card written from them.

    A new repository is private: weights tell of their training images, and a download cannot be called back.
    Others load it as hf-run:owner/name, or hf-run:owner/name@COMMIT.

    Example: robustlens push runs/trades someone/trades-resnet20 --license mit
    """
    from robustlens import sharing

    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if repository is not None and folder is None:
        pushed = sharing.push(run, repository, public=public, replace=replace, license_id=license_id)
        _tell_of_paths(pushed.local_paths)
        _print(pushed, f"pushed: {pushed.url}\nload it as: {pushed.load_as}", as_json=as_json)
    elif folder is not None and repository is None:
        if public:
            raise ConfigError("push: found --public beside --folder, expected it beside a repository")
        written = sharing.write_folder(run, folder, replace=replace, license_id=license_id)
        _tell_of_paths(written.local_paths)
        _print(written, f"written: {len(written.files)} files to {folder}", as_json=as_json)
    else:
        found = "both" if folder is not None else "neither"
        raise ConfigError(f"push: found {found}, expected a repository, owner/name, or --folder PATH")


def _print(result: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        output.print(text, soft_wrap=True)


def _tell_of_paths(local_paths: Sequence[str]) -> None:
    """Say which paths of this machine readers of the recipe see."""
    for path in local_paths:
        print_titled(
            console, "[bold yellow]note:[/] ", f"recipe.json tells others {path}, which its hash covers"
        )
