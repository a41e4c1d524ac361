"""Options of the commands, in groups that several of them share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from robustlens.cli.names import registered

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data files (or ROBUSTLENS_DATA). Without it, data sets come by name."),
]
Eps = Annotated[
    str | None, typer.Option(help="Radius on [0, 1] pixels, as 8/255 or 0.1. Default: the run's.")
]
Figures = Annotated[
    str | None,
    typer.Option(
        help="Drawings for papers: all, none, or of pdf,svg,png. Default: all; none over 50 networks."
    ),
]
Device = Annotated[
    str, typer.Option(help="auto (a CUDA device where there is one), cpu, cuda, or one of several: cuda:1.")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the package.module:factory that a file names.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(help="Tell a tracker each epoch: tensorboard, mlflow, wandb or trackio. Repeatable."),
]
TrackDir = Annotated[
    Path | None, typer.Option(help="Folder of the trackers' files. Default: tracking, in the output folder.")
]
ModelArgument = Annotated[
    str, typer.Argument(help="A run folder, a file of weights, hf-run:owner/name, or package.module:factory.")
]


@dataclass(frozen=True)
class SubjectOptions:
    """Images and threat of an evaluation or an explanation."""

    data: Annotated[str | None, typer.Option(help="Data set. Default: the run's own.")] = None
    data_dir: DataDir = None
    norm: Annotated[
        str | None, typer.Option("--norm", help="Linf, L2 or L1. Default: the run's own, else Linf.")
    ] = None
    eps: Eps = None


@dataclass(frozen=True)
class NetworkOptions:
    """Network, and the checkpoint of its weights."""

    checkpoint: Annotated[str, typer.Option(help="Of a run folder: best, last, both, epoch-NNNN, every.")] = (
        "best"
    )
    architecture: Annotated[
        str | None,
        typer.Option(help="Network of weights that others wrote: a name, or package.module:factory."),
    ] = None
    model_option: Annotated[
        list[str] | None,
        typer.Option(help="What a model's file or factory needs to be told: NAME=VALUE. Repeatable."),
    ] = None
    trust_code: TrustCode = False
    device: Device = "auto"
    devices: Annotated[
        str | None,
        typer.Option(help="Processes that share the work: a number, one a CUDA device, or cuda:0,cuda:1."),
    ] = None


@dataclass(frozen=True)
class AttackOptions:
    """Attacks on the images."""

    attacks: Annotated[
        str, typer.Option(help="Suites (fast, standard, plus, rand) or names: fgsm,pgd-50,standard.")
    ] = "fast"
    restarts: Annotated[int, typer.Option(min=1, help="Random restarts of each attack.")] = 1
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split. Default: all.")] = None
    train_limit: Annotated[
        int | None, typer.Option(min=1, help="Training images, where fewer will do for the gap.")
    ] = None
    curve: Annotated[
        str | None,
        typer.Option(help="Radii of the accuracy curve as multiples of eps: 0.5,1,2; none. Default: six."),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time: speed, not verdicts.")] = 256
    precision: Annotated[
        str, typer.Option(help="What attacks search in: 32-true or bf16-mixed. Verdicts are float32.")
    ] = "32-true"
    compile: Annotated[
        bool, typer.Option("--compile", help="Let torch compile what attacks search on: pays on a GPU.")
    ] = False
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Attack around layers whose gradient is useless.")
    ] = False
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Keep the images that break the model.")
    ] = False
    certify: Annotated[
        str | None, typer.Option(help="Also prove images robust: ibp, crown-ibp or crown. Default: none.")
    ] = None


@dataclass(frozen=True)
class RecipeOptions:
    """Fields of a recipe that have an option of their own."""

    data: Annotated[
        str | None, typer.Option(help="Data set: fashion-mnist-10k, cifar10, folder:PATH ...")
    ] = None
    model: Annotated[str | None, typer.Option(help="Architecture, or package.module:factory.")] = None
    objective: Annotated[
        str | None, typer.Option(help=f"{registered('objectives/__init__.py', 'OBJECTIVES')}.")
    ] = None
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1.")] = None
    eps: Eps = None
    awp: Annotated[
        str | None, typer.Option(help="Weight perturbation: gamma, e.g. 0.01. Off by default.")
    ] = None
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order, augmentation and attacks.")] = None
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe field, e.g. --set optimizer.lr=0.05. Repeatable."),
    ] = None


RECIPE_FIELDS = {
    "data": "data.name",
    "model": "model.name",
    "objective": "objective",
    "norm": "threat.norm",
    "eps": "threat.eps",
    "awp": "awp.gamma",
    "epochs": "optimizer.epochs",
    "seed": "seed",
}
"""Field of the recipe that each of `RecipeOptions` sets."""


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take its options in groups: a parameter of a class above is spread out."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    spread: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in groups:
            spread[name] = parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name])
            continue
        types = get_type_hints(groups[name], include_extras=True)
        for field in fields(groups[name]):
            spread[field.name] = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )

    @functools.wraps(function)
    def command(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        function(**values, **made)

    command.__signature__ = inspect.Signature(list(spread.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in spread.items()}
    return command
