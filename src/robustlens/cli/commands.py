"""The commands: `robustlens study|train|evaluate|explain`.

A command imports what it works with, so that --help and a mistyped option wait for none of it.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from robustlens import processes
from robustlens.cli import executors
from robustlens.cli.application import app
from robustlens.cli.display import console, output, print_json, print_titled, shown
from robustlens.cli.names import registered
from robustlens.cli.options import (
    AttackOptions,
    DataDir,
    Device,
    Figures,
    Json,
    ModelArgument,
    NetworkOptions,
    Quiet,
    RecipeOptions,
    SubjectOptions,
    Track,
    TrackDir,
    TrustCode,
    grouped,
)
from robustlens.cli.report_commands import print_json_of
from robustlens.errors import ConfigError, NumericsError


@app.command()
@grouped
def study(
    source: Annotated[str, typer.Argument(help="A study file (YAML), or a built-in study: quickstart.")],
    machines: executors.ExecutorOptions,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. Default: robustlens-out/<name>.")
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    track: Track = None,
    track_dir: TrackDir = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the file's seeds: 0,1,2.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the runs and stop.")] = False,
    figures: Figures = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train, attack and explain every run of a study, check the papers' claims, write the report.

    The same command goes on after a stop and skips what is finished. One failed run does not stop the others.

    Example: robustlens study examples/cifar10.yaml --data-dir ~/data
    """
    from robustlens import report, study
    from robustlens.cli import arguments, tables

    arguments.use_data_dir(data_dir)
    formats = arguments.formats(figures)
    spec = study.read(source, trust_code=trust_code)
    if seeds is not None:
        spec = spec.model_copy(update={"seeds": arguments.seeds(seeds)})
    folder = out or Path("robustlens-out") / spec.name
    executor = executors.of(machines, device, folder)
    planned = study.plan(spec)
    if plan_only:
        if as_json:
            print_json({"runs": [{"id": run.id, "recipe": run.recipe} for run in planned]})
        else:
            tables.plan(planned)
        return
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with shown(quiet) as listen:
        result = study.run(
            spec, folder, executor=executor, listen=listen, track=track or (), track_dir=track_dir
        )
    page = report.write(folder, formats=formats)
    if as_json:
        print_json_of(page)
    else:
        tables.headline(result.folder)
        tables.claims(result.folder)
    for failure in result.failures:
        print_titled(console, "[bold red]failed[/] ", f"{failure.name}: {failure.error}")
    if not as_json:
        output.print(f"report: {page}", soft_wrap=True)
    if result.failures:
        raise typer.Exit(result.failures[0].exit_code)


@app.command()
@grouped
def train(
    options: RecipeOptions,
    recipe: Annotated[Path | None, typer.Option(help="A recipe file (YAML); the options change it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: robustlens-out/<recipe hash>.")
    ] = None,
    device: Device = "auto",
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Between two states inside an epoch, for where a process is killed.")
    ] = 30.0,
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    track: Track = None,
    track_dir: TrackDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train one network; the same command resumes at the last finished epoch.

    Example: robustlens train --data cifar10 --model resnet20 --objective trades --eps 8/255 --out runs/trades
    """
    from robustlens.cli import arguments, tables
    from robustlens.config import Recipe, checked
    from robustlens.tracking import Tracking
    from robustlens.training import distributed, train

    arguments.use_data_dir(data_dir)
    values = arguments.recipe_values(options, recipe, trust_code=trust_code)
    with shown(quiet or not processes.is_first()) as listen:
        run = train(
            checked(Recipe, values, "recipe"),
            out,
            device=device,
            checkpoint_minutes=checkpoint_minutes,
            progress=partial(listen, "train"),
            track=Tracking(tuple(track or ()), track_dir),
        )
    distributed.shutdown()
    if processes.is_first() and as_json:
        print_json({"run": str(run.folder), "record": run.record, "last_epoch": run.metrics()[-1]})
    elif processes.is_first():
        tables.training(run)


@app.command()
@grouped
def evaluate(
    model: ModelArgument,
    subject: SubjectOptions,
    attack: AttackOptions,
    network: NetworkOptions,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and masks. Default: the run.")
    ] = None,
    leaderboard: Annotated[
        Path | None, typer.Option(help="Also write the fields of a RobustBench entry to this JSON file.")
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(help="A field of that entry: authors=..., venue=..., link=..., name=... Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 4 if a reliability flag is up.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Attack a model on training and test images, with intervals, gaps and reliability flags.

    With a run folder or --out it can be stopped at any moment: the same command goes on where it stopped,
    with another number of --devices, too. Under torchrun every process takes its share of the images.

    Example: robustlens evaluate my.package:make_model --data cifar10 --eps 8/255 --attacks standard --out ev
    """
    from robustlens import attacks
    from robustlens.cli import arguments, sharding, tables
    from robustlens.config import EvaluationPlan
    from robustlens.evaluation import leaderboard_entry, leaderboard_suite
    from robustlens.results.files import check_writable, write_atomic

    given = arguments.leaderboard_fields(about, leaderboard)
    if leaderboard is not None:
        leaderboard_suite(attacks.names(attack.attacks))
        check_writable(leaderboard)
    network, model = sharding.on_own_device(network), arguments.pinned(model, network)
    chosen = arguments.resolve_model(model, subject, network, out)
    plan = _plan(EvaluationPlan, "evaluate", chosen, attack, attacks=attacks.names(attack.attacks))
    if chosen.run is not None:
        arguments.refuse_other_plan(chosen.run, "evaluation", plan)
    elif attack.save_adversarial and out is None:
        raise ConfigError("--save-adversarial: found no folder for the images; add --out FOLDER")
    request = sharding.EvaluationRequest(model, subject, network, out, plan)
    with shown(quiet) as listen:
        result = sharding.evaluate(request, chosen, listen)
    if result is None:
        return
    if as_json:
        print_json(result)
    else:
        tables.evaluation(result)
    if leaderboard is not None:
        known = {"dataset": subject.data or "", "architecture": network.architecture or model}
        write_atomic(leaderboard, arguments.json_bytes(leaderboard_entry(result, **(known | given))))
    flags = ", ".join(flag.name for flag in result.splits["test"].flags)
    if strict and flags:
        raise NumericsError(f"evaluate --strict: found the flags {flags}, expected none")


@app.command()
@grouped
def explain(
    model: ModelArgument,
    subject: SubjectOptions,
    network: NetworkOptions,
    measures: Annotated[
        str | None,
        typer.Option(help=f"{registered('explain/registry.py', 'MEASURES')}; or all. Default: a study's."),
    ] = None,
    measure_option: Annotated[
        list[str] | None, typer.Option(help="Of a measure: landscape.steps=9 (docs/recipe.md). Repeatable.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Images of each split.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for explanation.json. Default: the run.")] = None,
    every_number: Annotated[bool, typer.Option("--all", help="Print every number, not a summary.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure what robustness did: spectra, activations, margins, smoothness, loss landscape.

    Finished measures are kept in a run folder or --out: the same command goes on after a stop, with another
    number of --devices, too.

    Example: robustlens explain runs/trades --measures margins,landscape
    """
    from robustlens import explain as room
    from robustlens import report
    from robustlens.cli import arguments, sharding, tables
    from robustlens.config import ExplanationPlan

    network, model = sharding.on_own_device(network), arguments.pinned(model, network)
    chosen = arguments.resolve_model(model, subject, network, out)
    values: dict[str, Any] = {"examples": examples}
    if measures is not None:
        values["measures"] = list(room.MEASURES) if measures == "all" else measures.split(",")
    chosen_measures = values.get("measures", ExplanationPlan().measures)
    values["options"] = arguments.measure_options(measure_option or (), chosen_measures)
    plan = _plan(ExplanationPlan, "explain", chosen, **values)
    if chosen.run is not None:
        arguments.refuse_other_plan(chosen.run, "explanation", plan)
    request = sharding.ExplanationRequest(model, subject, network, out, plan)
    with shown(quiet) as listen:
        result = sharding.explain(request, chosen, listen)
    if as_json:
        print_json({"measures": result})
        return
    (tables.measurements if every_number else tables.measurements_summary)(result)
    folder = out or (chosen.run.folder if chosen.run else None)
    if folder is not None:
        output.print(f"report: {report.write_run(folder, formats=())}", soft_wrap=True)


def _plan(kind: Any, where: str, chosen: Any, attack: AttackOptions | None = None, **values: Any) -> Any:
    """The plan that the options of `evaluate` or `explain` ask for."""
    from robustlens.cli import arguments
    from robustlens.config import checked

    values |= {"threat": chosen.threat.model_dump(), "checkpoint": chosen.checkpoint}
    if attack is not None:
        values |= {"test_examples": attack.limit, "train_examples": attack.train_limit or attack.limit}
        values |= {name: getattr(attack, name) for name in ("restarts", "batch_size", "precision", "compile")}
        values |= {name: getattr(attack, name) for name in ("save_adversarial", "adaptive", "certify")}
        values |= {} if attack.curve is None else {"curve": arguments.curve(attack.curve)}
    return checked(kind, values, where)
