"""Arguments of the commands, made into what the rooms take."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlens.cli.options import RECIPE_FIELDS, NetworkOptions, RecipeOptions, SubjectOptions
from robustlens.config import (
    Checkpoint,
    DataSpec,
    Plan,
    ThreatSpec,
    checked,
    norm_name,
    parsed_yaml,
    read_yaml,
    refuse_code,
)
from robustlens.config.checkpoint import SELECTIONS
from robustlens.config.names import names_path
from robustlens.errors import ConfigError
from robustlens.results import Run, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from robustlens.data import Splits


@dataclass(frozen=True)
class ResolvedModel:
    """A model with its images and its threat, as the arguments name them.

    `run` is the run whose result is asked for; None where the model is no folder of a run, or --data or the
    --out of another folder is given.
    """

    splits: "Splits"
    threat: ThreatSpec
    checkpoint: str
    run: Run | None
    network: "Callable[[], nn.Module]"
    run_options: Mapping[str, Any]


def use_data_dir(data_dir: Path | None) -> None:
    """Make the folder known to this process and its workers."""
    if data_dir is None:
        return
    if not data_dir.is_dir():
        raise ConfigError(
            f"--data-dir: found no folder {str(data_dir)!r}; give the folder that holds the data files"
        )
    os.environ["ROBUSTLENS_DATA"] = str(data_dir.resolve())


def resolve_model(
    model: str, subject: SubjectOptions, network: NetworkOptions, out: Path | None
) -> ResolvedModel:
    """The data, the threat, the run folder (if the model is one) and the network that the arguments name."""
    from robustlens import data, hub, machine

    use_data_dir(subject.data_dir)
    device = machine.device(network.device)
    run = _run_of(model, network)
    if run is None and (subject.data is None or subject.eps is None):
        raise ConfigError(f"{model}: is no run folder of ours, so --data and --eps are needed")
    if run is None and network.checkpoint != NetworkOptions.checkpoint:
        raise ConfigError(f"--checkpoint: found {network.checkpoint}, but {model} is no run folder of ours")
    is_fetched = hub.is_hub_run(model)
    is_own = out is None or (run is not None and out.resolve() == run.folder.resolve())
    own = run if is_own and subject.data is None and not is_fetched else None
    if own is None and out is not None:
        Run(out).files("evaluation").check_no_run()
    threat = _threat(model, run, subject)
    options = model_options(run, network.architecture, network.model_option)
    if run is not None and subject.data is None:
        spec = data_of_others(model, run) if is_fetched else run.data_spec
        data.check_source(spec, model)
        splits = data.of_spec(spec, trust_code=network.trust_code)
        if is_fetched:  # of a run of ours, the stage checks it
            run.check_data(splits.fingerprint)
    else:
        splits = data.load(str(subject.data))
    source = str(run.folder) if run is not None else model
    build = partial(_network, source, run, network, options, device)
    run_options = {"splits": splits, "trust_code": network.trust_code, "device": network.device}
    return ResolvedModel(splits, threat, network.checkpoint, own, build, run_options)


def pinned(model: str, network: NetworkOptions) -> str:
    """The model argument; of a run on the Hub with its commit, so that all processes load the same one."""
    from robustlens import hub

    if not hub.is_hub_run(model):
        return model
    hub.published_checkpoints(model, network.checkpoint)  # refused before the network is asked
    return hub.pinned(model)


def data_of_others(model: str, run: Run) -> DataSpec:
    """The data of a run that others trained, without any path of a recipe that they wrote.

    Raises:
        ConfigError: the data are files of their machine.
    """
    spec = run.recipe.data
    if names_path(spec.name):
        raise ConfigError(f"{model}: was trained on {spec.name!r} of another machine, so --data is needed")
    return spec.model_copy(update={"data_dir": None})


def _run_of(model: str, network: NetworkOptions) -> Run | None:
    """The run that the argument names: a folder of ours, or a run on the Hub, which is fetched."""
    from robustlens import hub

    if not hub.is_hub_run(model):
        return Run(model) if Run(model).has_recipe else None
    return hub.fetch(model, network.checkpoint)


def _threat(model: str, run: Run | None, subject: SubjectOptions) -> ThreatSpec:
    own = run.recipe.threat if run is not None else ThreatSpec()
    if subject.norm is not None and norm_name(subject.norm) != own.norm and subject.eps is None:
        raise ConfigError(
            f"--norm: {subject.norm} is not the norm of training ({own.norm}), so --eps is needed"
        )
    if run is not None and subject.eps is None and own.eps == 0:
        raise ConfigError(f"{model}: was trained without an attack, so --eps is needed, e.g. --eps 0.1")
    eps = own.eps if subject.eps is None else subject.eps
    return checked(ThreatSpec, {"norm": subject.norm or own.norm, "eps": eps}, "threat")


def _network(
    model: str, run: Run | None, options: NetworkOptions, of_model: Mapping[str, Any], device: "torch.device"
) -> "nn.Module":
    """The network that the argument names; a checkpoint is a run folder's alone."""
    from robustlens import models

    if run is not None and options.checkpoint in SELECTIONS:
        raise ConfigError(
            f"--checkpoint: found {options.checkpoint}, expected one of them beside --out or --data"
        )
    checkpoint = options.checkpoint if run else None
    network = models.load(model, checkpoint=checkpoint, trust_code=options.trust_code, **of_model)
    return network.to(device)


def model_options(run: Run | None, architecture: str | None, given: list[str] | None) -> dict[str, Any]:
    """The options of a model in --architecture and --model-option; a run folder knows its own."""
    expected = "NAME=VALUE, e.g. mean=[0.49,0.48,0.45]"
    options = dict(pair("--model-option", item, expected) for item in given or [])
    for name in ("spec", "checkpoint", "trust_code"):
        if name in options:
            raise ConfigError(
                f"--model-option: found {name!r}, expected an option of the network or its file"
            )
    for name in ("mean", "std"):
        numbers = options.get(name, [])
        if not isinstance(numbers, list) or not all(isinstance(number, int | float) for number in numbers):
            raise ConfigError(
                f"--model-option: found {name}={numbers!r}, expected one number a channel: [0.5]"
            )
    if architecture is not None:
        options["architecture"] = architecture
    if run is not None and options:
        name = next(iter(options))
        raise ConfigError(f"--model-option: found {name!r}, which the recipe in {run.folder} tells already")
    return options


def recipe_values(options: RecipeOptions, recipe: Path | None, *, trust_code: bool) -> dict[str, Any]:
    """The fields of a recipe in a file, changed by the options.

    Raises:
        ConfigError: the file cannot be read or names code that is not trusted, or an option is wrong.
    """
    values = read_yaml(recipe) if recipe else {}
    refuse_code(values, str(recipe), trust_code=trust_code)
    for option, field in RECIPE_FIELDS.items():
        if getattr(options, option) is not None:
            _put(values, field, getattr(options, option))
    for item in options.set_ or []:
        _put(values, *pair("--set", item, "FIELD=VALUE, e.g. optimizer.lr=0.05"))
    return values


def pair(option: str, item: str, expected: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE, the value read as YAML."""
    name, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(f"{option}: found {item!r}, expected {expected}")
    return name, parsed_yaml(text, f"{option} {text[:80]!r}")


def leaderboard_fields(about: list[str] | None, leaderboard: Path | None) -> dict[str, Any]:
    """The fields of a leaderboard entry in --about, before anything is evaluated."""
    from robustlens.evaluation.leaderboard import checked_about

    if about and leaderboard is None:
        raise ConfigError("--about: found without --leaderboard FILE, which it describes; give both")
    fields = {}
    for item in about or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--about: found {item!r}, expected FIELD=TEXT, e.g. authors='A. Author'")
        fields[name] = text
    return checked_about(fields, "--about")


def seeds(text: str) -> tuple[int, ...]:
    """The seeds of `--seeds 0,1,2`."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ConfigError(f"--seeds: found {text!r}, expected different whole numbers with commas: 0,1,2")
    return tuple(int(word) for word in words)


def formats(figures: str | None) -> tuple[str, ...] | None:
    """The formats of `--figures pdf,svg`, of "all" and "none"; None where the report decides."""
    from robustlens.report.drawing.matplotlib import FORMATS, checked_formats

    named: dict[str | None, tuple[str, ...] | None] = {None: None, "all": FORMATS, "none": ()}
    return named[figures] if figures in named else checked_formats(str(figures).split(","))


def curve(text: str) -> list[str]:
    """The radii of `--curve 0.5,1,2`; none for "none"."""
    return [] if text == "none" else [word.strip() for word in text.split(",")]


def measure_options(items: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by measure, of `--measure-option landscape.steps=9`, for measures that are asked for."""
    options: dict[str, dict[str, Any]] = {}
    for item in items:
        name, value = pair("--measure-option", item, "MEASURE.OPTION=VALUE, e.g. landscape.steps=9")
        measure, dot, option = name.rpartition(".")
        if not dot or measure not in measures:
            raise ConfigError(
                f"--measure-option: found {item!r}, expected MEASURE.OPTION=VALUE of {', '.join(measures)}"
            )
        options.setdefault(measure, {})[option] = value
    return options


def refuse_other_plan(run: Run, stage: Stage, plan: Plan) -> None:
    """Refuse to replace a result of another plan, which a study may stand on."""
    primary, *others = plan.checkpoints(run.kept_checkpoints())
    wanted: dict[Checkpoint | None, Checkpoint] = {None: primary, **{one: one for one in others}}
    for other, checkpoint in wanted.items():
        result = run.result(stage, other)
        if result is not None and result.provenance.plan != plan.at(checkpoint).model_dump(mode="json"):
            raise ConfigError(f"{run.files(stage, other).path}: holds the result of another plan; give --out")


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings, where null stands for an empty one.

    Raises:
        ConfigError: another value is in the way. In its place the defaults of its fields would hold.
    """
    *path, last = key.split(".")
    for depth, part in enumerate(path, 1):
        inside = {} if values.get(part) is None else values[part]
        if not isinstance(inside, dict):
            shown = f"{'.'.join(path[:depth])} {repr(inside)[:80]}"
            raise ConfigError(f"recipe.{key}: found {shown}, expected a mapping of its fields")
        values[part] = inside = dict(inside)
        values = inside
    values[last] = value


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A mapping as indented JSON, for a file that is no part of a run."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
