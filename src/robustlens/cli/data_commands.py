"""Commands about data sets: `robustlens data pack`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from robustlens.cli.application import app
from robustlens.cli.display import output, print_json, shown
from robustlens.cli.options import DataDir, Json, Quiet

data_app = typer.Typer(help="Data sets: pack one that does not fit in memory.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def _data() -> None:
    """Data sets: pack one that does not fit in memory."""


@data_app.command()
def pack(
    source: Annotated[
        str, typer.Argument(help="Data set: cifar10, folder:PATH, npz:PATH, hf:owner/name ...")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; name it as packed:FOLDER afterwards.")],
    size: Annotated[
        int | None,
        typer.Option(help="Side of the stored images: the shorter one is resized, the middle is kept."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3. Default: as in the images.")] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Decode a data set once, into files that training reads from the disk; the same command goes on.

    Example: robustlens data pack folder:~/imagenet packed-imagenet --size 256
    """
    from robustlens import data
    from robustlens.cli import arguments

    arguments.use_data_dir(data_dir)
    with shown(quiet) as listen:
        record = data.pack(source, out, size=size, channels=channels, progress=partial(listen, "data"))
    if as_json:
        print_json({"data": f"packed:{out}", "manifest": record})
        return
    counts = ", ".join(f"{split.rows} {name}" for name, split in record.splits.items())
    shape = "x".join(str(side) for side in record.shape)
    output.print(
        f"packed:{out}: {counts} images of {shape}, {len(record.classes)} classes",
        soft_wrap=True,
    )
