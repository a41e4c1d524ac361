"""The command line: `robustlens study|train|evaluate|explain|report|methods|doctor`."""

import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.table import Table

from robustlens.cli import arguments, tables
from robustlens.cli.display import console, output, shown
from robustlens.config import EvaluationPlan, ExplanationPlan, Recipe, checked, read_yaml
from robustlens.errors import (
    ConfigError,
    NumericsError,
    ResourceError,
    RobustlensError,
    StoppedError,
    out_of_memory,
)
from robustlens.machine import keep_memory
from robustlens.results.folders import Run, write_json

app = typer.Typer(
    help="Train robust networks, attack them honestly, and see what robustness did to them.",
    epilog="Start with: robustlens study quickstart. Every command has its own --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Import the package.module:factory that a weights file names."),
]
Architecture = Annotated[
    str | None,
    typer.Option(help="Network of weights that others wrote: a name, or package.module:factory."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(help="What a model's file or factory needs to be told: NAME=VALUE. Repeatable."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data files (or ROBUSTLENS_DATA). Without it, data sets come by name."),
]
Eps = Annotated[
    str | None,
    typer.Option(help="Radius on [0, 1] pixels, as 8/255 or 0.1. Default: the run's."),
]
NormName = Annotated[
    str | None, typer.Option("--norm", help="Linf, L2 or L1. Default: the run's own, else Linf.")
]


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["ROBUSTLENS_DEBUG"] = "1"


@app.command()
def study(
    source: Annotated[str, typer.Argument(help="A study file (YAML), or a built-in study: quickstart.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. Default: robustlens-out/<name>.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one per core; they share the cores.")
    ] = None,
    data_dir: DataDir = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the runs and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, attack and explain every run of a study, check the papers' claims, write the report.

    The same command goes on after a stop and skips what is finished. One failed run does not stop the others.

    Example: robustlens study examples/cifar10.yaml --data-dir ~/data
    """
    from robustlens import report, study
    from robustlens.executors.local import LocalProcesses

    arguments.use_data_dir(data_dir)
    spec = study.read(source)
    planned = study.plan(spec)
    if plan_only:
        tables.plan(planned)
        return
    folder = out or Path("robustlens-out") / spec.name
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with shown(quiet) as listen:
        result = study.run(spec, folder, executor=LocalProcesses(workers), listen=listen)
    page = report.write(folder)
    tables.headline(result.folder)
    tables.claims(result.folder)
    for failure in result.failures:
        console.print(f"[bold red]failed[/] {failure.name}: ", end="")
        console.print(failure.error, markup=False, soft_wrap=True)
    output.print(f"report: {page}", soft_wrap=True)
    if result.failures:
        raise typer.Exit(result.failures[0].exit_code)


@app.command()
def train(
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe file (YAML); the options below change it.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set: fashion-mnist-10k, cifar10, folder:PATH ...")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Architecture, or package.module:factory.")] = None,
    objective: Annotated[str | None, typer.Option(help="standard, fgsm, at, trades, mart.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1.")] = None,
    eps: Eps = None,
    awp: Annotated[
        str | None, typer.Option(help="Weight perturbation: gamma, e.g. 0.01. Off by default.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order, augmentation and attacks.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe field, e.g. --set optimizer.lr=0.05. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: robustlens-out/<recipe hash>.")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train one network; the same command resumes at the last finished epoch.

    Example: robustlens train --data cifar10 --model resnet20 --objective trades --eps 8/255 --out runs/trades
    """
    from robustlens.training import distributed as ranks
    from robustlens.training.trainer import train

    arguments.use_data_dir(data_dir)
    values = read_yaml(recipe) if recipe else {}
    given = {
        "data.name": data,
        "model.name": model,
        "objective": objective,
        "threat.norm": norm,
        "threat.eps": eps,
        "awp.gamma": awp,
        "optimizer.epochs": epochs,
        "seed": seed,
    }
    for key, value in given.items():
        if value is not None:
            arguments.put(values, key, value)
    for item in set_ or []:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set: found {item!r}, expected FIELD=VALUE, e.g. optimizer.lr=0.05")
        arguments.put(values, key, arguments.value(text))
    with shown(quiet or not ranks.is_main()) as named:
        run = train(checked(Recipe, values, "recipe"), out, progress=partial(named, "train"))
    ranks.shutdown()
    if not ranks.is_main():
        return
    last = run.metrics()[-1]
    for split in ("train", "validation"):
        if last[split]:
            found = last[split]
            output.print(
                f"{split}: clean {found['clean']:.1%}, robust {found['robust']:.1%} ({found['n']} images)"
            )
    output.print(f"run: {run.folder}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a file of weights, or package.module:factory.")],
    data: Annotated[str | None, typer.Option(help="Data set. Default: the run's own.")] = None,
    norm: NormName = None,
    eps: Eps = None,
    attacks: Annotated[
        str,
        typer.Option(help="Suites (fast, standard, plus, rand) or names: fgsm,pgd-50,standard."),
    ] = "fast",
    restarts: Annotated[int, typer.Option(min=1, help="Random restarts of each attack.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split. Default: all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time: speed, not verdicts.")] = 256,
    precision: Annotated[
        str, typer.Option(help="What attacks search in: 32-true or bf16-mixed. Verdicts are float32.")
    ] = "32-true",
    checkpoint: Annotated[
        str, typer.Option(help="Of a run folder: best, last, both, epoch-NNNN, every.")
    ] = "best",
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and masks. Default: the run.")
    ] = None,
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Keep the images that break the model.")
    ] = False,
    leaderboard: Annotated[
        Path | None, typer.Option(help="Also write the fields of a RobustBench entry to this JSON file.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 4 if a reliability flag is up.")] = False,
    architecture: Architecture = None,
    model_option: ModelOption = None,
    trust_code: TrustCode = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Attack a model on training and test images, with intervals, gaps and reliability flags.

    With a run folder or --out it can be stopped at any moment: the same command goes on where it stopped.

    Example: robustlens evaluate my.package:make_model --data cifar10 --eps 8/255 --attacks standard --out ev
    """
    from robustlens import attacks as attack_room
    from robustlens.evaluation import evaluate_model, evaluate_run, evaluate_splits, leaderboard_entry

    arguments.use_data_dir(data_dir)
    splits, threat, run = arguments.subject(model, data, norm, eps)
    options = arguments.model_options(run, architecture, model_option)
    values = {
        "threat": threat.model_dump(),
        "attacks": attack_room.names(attacks),
        "restarts": restarts,
        "checkpoint": checkpoint,
        "test_examples": limit,
        "train_examples": limit,
        "batch_size": batch_size,
        "precision": precision,
        "save_adversarial": save_adversarial,
    }
    plan = checked(EvaluationPlan, values, "evaluate")
    with shown(quiet) as named:
        listen = partial(named, "evaluate")
        if run is not None and out is None and data is None:
            arguments.keep(run, "evaluation", plan)
            content = evaluate_run(run, plan, splits=splits, trust_code=trust_code, progress=listen)
        else:
            network = arguments.network(model, run, checkpoint, trust_code, options)
            if out is not None:
                content = evaluate_model(network, splits, plan, out, progress=listen)
            else:
                content, _, _ = evaluate_splits(network, splits, plan, progress=listen)
    tables.evaluation(content)
    if leaderboard is not None:
        write_json(
            leaderboard, leaderboard_entry(content, dataset=data or "", architecture=architecture or model)
        )
    flags = content["splits"]["test"]["flags"]
    if strict and flags:
        names = ", ".join(flag["name"] for flag in flags)
        raise NumericsError(f"evaluate --strict: found the flags {names}, expected none")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A run folder, a file of weights, or package.module:factory.")],
    data: Annotated[str | None, typer.Option(help="Data set. Default: the run's own.")] = None,
    norm: NormName = None,
    eps: Eps = None,
    measures: Annotated[
        str | None, typer.Option(help="Names with commas, or all. Default: a study's own five.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Images of each split.")] = 1000,
    checkpoint: Annotated[
        str, typer.Option(help="Of a run folder: best, last, both, epoch-NNNN, every.")
    ] = "best",
    out: Annotated[Path | None, typer.Option(help="Folder for explanation.json. Default: the run.")] = None,
    architecture: Architecture = None,
    model_option: ModelOption = None,
    trust_code: TrustCode = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Measure what robustness did: spectra, activations, margins, smoothness, loss landscape.

    Example: robustlens explain runs/trades --measures margins,landscape
    """
    from robustlens import explain as room
    from robustlens.threat import ThreatModel

    arguments.use_data_dir(data_dir)
    splits, threat_spec, run = arguments.subject(model, data, norm, eps)
    options = arguments.model_options(run, architecture, model_option)
    values: dict[str, Any] = {"examples": examples, "checkpoint": checkpoint}
    if measures is not None:
        values["measures"] = list(room.MEASURES) if measures == "all" else measures.split(",")
    plan = checked(ExplanationPlan, values, "explain")
    threat = ThreatModel(threat_spec.norm, threat_spec.eps)
    with shown(quiet) as named:
        listen = partial(named, "explain")
        if run is not None and out is None and data is None:
            arguments.keep(run, "explanation", plan)
            content = room.explain_run(
                run, plan, threat, splits=splits, trust_code=trust_code, progress=listen
            )
        else:
            network = arguments.network(model, run, checkpoint, trust_code, options)
            found = room.explain(network, splits, threat, plan, progress=listen)
            content = room.as_json(found)
            if out is not None:
                Run(out).write_result("explanation", content, room.arrays_of(found))
    tables.explanation(content)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study folder or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: <folder>/report.")] = None,
) -> None:
    """Write the HTML page and the figures (PDF, SVG, CSV) from what a study or a run has measured."""
    from robustlens import report

    is_study = (folder / "study.json").exists()
    page = report.write(folder, out) if is_study else report.write_run(folder, out)
    output.print(f"report: {page}", soft_wrap=True)


@app.command()
def methods() -> None:
    """List objectives, attacks, losses, measures, claims, models, data sets and studies."""
    from robustlens import attacks, claims, data, explain, losses, models, objectives, study
    from robustlens.threat import ThreatModel

    suites = attacks.suites_in(tuple(attacks.SUITES), ThreatModel("Linf", 0.1))
    rooms = {
        "objectives": [
            f"{name} ({', '.join(objectives.options_of(name))})" for name in objectives.OBJECTIVES
        ],
        "attacks": list(attacks.ATTACKS),
        "attack suites": [f"{name} = {', '.join(parts)}" for name, parts in suites.items()],
        "attack losses": list(losses.LOSSES),
        "measures": list(explain.MEASURES),
        "claims": list(claims.CLAIMS),
        "models": [*models.MODELS, "package.module:factory"],
        "data": data.names(),
        "studies": study.built_in(),
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for room, names in rooms.items():
        table.add_row(f"[bold]{room}[/]", ", ".join(names))
    output.print(table)


@app.command()
def doctor() -> None:
    """Say what this machine offers, and check that the installation computes right."""
    from robustlens.cli.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]  " if finding.fine else "[red]bad[/] "
        output.print(f"{mark} {finding.name}: ", end="")
        output.print(finding.text, markup=False, soft_wrap=True)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(4)


# -- errors and signals --------------------------------------------------------------------------------


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(f"stopped by {signal.Signals(number).name}; the same command goes on where it stopped")


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


def _fail(error: RobustlensError) -> int:
    if os.environ.get("ROBUSTLENS_DEBUG"):
        traceback.print_exception(error)
    console.print("[bold red]error:[/] ", end="")
    console.print(" ".join(str(error).split()), markup=False, soft_wrap=True)
    return error.exit_code


def main() -> None:
    """Entry point of the `robustlens` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
