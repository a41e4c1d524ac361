"""Commands that read what is there: `robustlens report|verify`.

A command imports what it works with, as in `commands`.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from robustlens.cli.application import app
from robustlens.cli.display import console, output, print_json
from robustlens.cli.options import Figures, Json
from robustlens.errors import StateError


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study folder or a run folder.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second run or evaluation folder: compares the two.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write. Default: <folder>/report, two runs: <folder>/report/against-<other>."
        ),
    ] = None,
    figures: Figures = None,
    as_json: Json = False,
) -> None:
    """Write the page of a study or a run, its figures (PDF, SVG, PNG, CSV), LaTeX tables and results.json.

    The claims of a study are judged anew, by the present rules. Of two runs, the page shows what differs in
    recipe and numbers, image by image where both were evaluated on the same images.

    Example: robustlens report runs/at runs/at-awp
    """
    from robustlens import claims, report
    from robustlens.cli import arguments, tables
    from robustlens.report.comparison import write_pages
    from robustlens.results import StudyFolder
    from robustlens.results.values import plain

    formats = arguments.formats(figures)
    if other is not None:
        comparison = report.compare(folder, other)
        page = write_pages(comparison, out or _comparison_folder(folder, other))
        if as_json:
            print_json({**plain(comparison), "report": str(page)})
            return
        tables.comparison(comparison)
    elif StudyFolder(folder).exists:
        page = report.write(folder, out, claims=claims.check(folder), formats=formats)
    else:
        page = report.write_run(folder, out, formats=formats)
    if as_json:
        print_json_of(page)
        return
    output.print(f"report: {page}", soft_wrap=True)


def print_json_of(page: Path) -> None:
    """Print `results.json`, which lies beside a report's page, and on standard error where the page is."""
    sys.stdout.write(page.with_name("results.json").read_text(encoding="utf-8"))
    console.print(f"report: {page}", soft_wrap=True)


@app.command(name="verify")
def verify_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of a study, a run or packed data.")],
    as_json: Json = False,
) -> None:
    """Read every file of a study, a run or a packed data set and check its seal; quiet where all is well.

    Exit 7 names each file that is damaged. Files of format 1, which have no seal, are counted.
    """
    from robustlens.results import verify

    checks = verify(folder)
    broken = [check for check in checks if check.problem]
    unsealed = sum(not check.sealed for check in checks if check.problem is None)
    if as_json:
        files = [{"path": str(one.path), "sealed": one.sealed, "problem": one.problem} for one in checks]
        print_json({"files": files, "damaged": len(broken), "unsealed": unsealed})
    elif unsealed:
        output.print(f"{folder}: {unsealed} of {len(checks)} files are of format 1, unsealed", soft_wrap=True)
    if broken:
        raise StateError("; ".join(str(check.problem) for check in broken))


def _comparison_folder(folder: Path, other: Path) -> Path:
    """Folder of a comparison beside the first run, named after the other one as seen from there."""
    from robustlens.results.leftovers import report_folder

    a, b = folder.resolve(), other.resolve()
    try:
        above = os.path.commonpath((a.parent, b))
    except ValueError:  # on another drive of Windows
        above = str(b.parent)
    name = "-".join(b.relative_to(above).parts) or b.name
    return report_folder(folder, None) / f"against-{name}"
