"""Commands about the installation: `robustlens methods|doctor|schema`.

A command imports what it works with, as in `commands`.
"""

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from robustlens.cli.application import app
from robustlens.cli.display import output, print_json, print_titled, shown
from robustlens.cli.options import Json, NetworkOptions, Quiet, SubjectOptions, grouped
from robustlens.errors import ConfigError


@app.command()
def methods(as_json: Json = False) -> None:
    """List objectives, attacks, losses, perturbations, measures, claims, models, data sets and studies."""
    from rich.table import Table
    from rich.text import Text

    from robustlens import attacks, claims, data, explain, losses, models, objectives, study, weights

    suites = attacks.suites_in(tuple(attacks.SUITES))
    rooms = {
        "objectives": _with_options(objectives.OBJECTIVES),
        "weight perturbations": _with_options(weights.PERTURBATIONS),
        "attacks": list(attacks.ATTACKS),
        "attack suites": [f"{name} = {', '.join(parts)}" for name, parts in suites.items()],
        "attack losses": list(losses.LOSSES),
        "measures": list(explain.MEASURES),
        "claims": list(claims.CLAIMS),
        "models": [*models.MODELS, "package.module:factory"],
        "data": data.names(),
        "studies": study.built_in(),
    }
    if as_json:
        print_json(rooms)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for room, names in rooms.items():
        table.add_row(Text(room, "bold"), ", ".join(names))
    output.print(table)


def _with_options(registry: Any) -> list[str]:
    return [f"{name} ({', '.join(registry.options(name))})" for name in registry]


@app.command()
@grouped
def doctor(
    subject: SubjectOptions,
    network: NetworkOptions,
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks", metavar="MODEL", help="Test attacks on this model instead: a run folder, a file ..."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Attacks that are tested: suites or names, fgsm,pgd-50,standard.")
    ] = "standard",
    examples: Annotated[int, typer.Option(min=1, help="Test images in which one is planted.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the planted images, the guesses and the attacks.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what this machine offers, and check that the installation computes right.

    With --attacks MODEL: plant adversarial images in that network, and say whether attacks find them. Exit 4
    where they do not, or where the test says nothing.

    Example: robustlens doctor --attacks runs/trades --suite fast,standard
    """
    from robustlens.cli.doctor import examine, examine_attacks

    if attacks is None:
        if (subject, network) != (SubjectOptions(), NetworkOptions()):
            raise ConfigError("doctor: found options of a network, expected --attacks MODEL beside them")
        findings = examine()
    else:
        with shown(quiet) as listen:
            findings = examine_attacks(
                attacks, subject, network, suite, examples=examples, seed=seed, listen=listen
            )
    if as_json:
        print_json({"findings": findings})
    for finding in () if as_json else findings:
        mark = "[green]ok[/]  " if finding.fine else "[red]bad[/] "
        print_titled(output, f"{mark} ", f"{finding.name}: {finding.text}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(4)


class SchemaOf(StrEnum):
    """Files that have a published schema."""

    RECIPE = "recipe"
    STUDY = "study"
    RESULTS = "results"


@app.command()
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="recipe or study (files you write), or results.json.")],
) -> None:
    """Print the JSON Schema of a file, for editors and programs that read results.

    Example: robustlens schema study > study.schema.json
    """
    from robustlens.config.schema import recipe_schema, study_schema
    from robustlens.report.results_document import results_schema

    schemas = {SchemaOf.RECIPE: recipe_schema, SchemaOf.STUDY: study_schema, SchemaOf.RESULTS: results_schema}
    sys.stdout.write(json.dumps(schemas[of](), indent=1) + "\n")
