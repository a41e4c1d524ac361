"""What the commands are given, made into what the rooms take."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlens.config import Plan, ThreatSpec, checked, norm_name
from robustlens.errors import ConfigError
from robustlens.results.folders import Run

if TYPE_CHECKING:
    from torch import nn

    from robustlens.data import Splits


def use_data_dir(data_dir: Path | None) -> None:
    """Make the folder known to this process and its workers."""
    if data_dir is None:
        return
    if not data_dir.is_dir():
        raise ConfigError(
            f"--data-dir: found no folder {str(data_dir)!r}; give the folder that holds the data files"
        )
    os.environ["ROBUSTLENS_DATA"] = str(data_dir.resolve())


def subject(
    model: str, data_name: str | None, norm: str | None, eps: str | None
) -> tuple["Splits", ThreatSpec, Run | None]:
    """The data, the threat and the run folder (if the model is one) that the arguments name."""
    from robustlens import data
    from robustlens.training.trainer import load_data

    run = Run(model) if (Path(model) / "recipe.json").exists() else None
    if run is None and (data_name is None or eps is None):
        raise ConfigError(f"{model}: is no run folder of ours, so --data and --eps are needed")
    own = run.recipe.threat if run is not None else ThreatSpec()
    if norm is not None and norm_name(norm) != own.norm and eps is None:
        raise ConfigError(f"--norm: {norm} is not the norm of training ({own.norm}), so --eps is needed")
    values: dict[str, Any] = {"norm": norm or own.norm, "eps": eps}
    if run is not None and eps is None:
        values["eps"] = own.eps
        if own.eps == 0:
            raise ConfigError(f"{model}: was trained without an attack, so --eps is needed, e.g. --eps 0.1")
    threat = checked(ThreatSpec, values, "threat")
    if data_name is None and run is not None:
        return load_data(run.recipe), threat, run
    return data.load(str(data_name)), threat, run


def network(
    model: str, run: Run | None, checkpoint: str, trust_code: bool, options: dict[str, Any]
) -> "nn.Module":
    """The network that the argument names; a checkpoint is a run folder's alone."""
    from robustlens import models

    if run is not None and checkpoint in ("both", "every"):
        raise ConfigError(f"--checkpoint: found {checkpoint}, expected one of them beside --out or --data")
    return models.load(model, checkpoint=checkpoint if run else None, trust_code=trust_code, **options)


def model_options(run: Run | None, architecture: str | None, given: list[str] | None) -> dict[str, Any]:
    """What --architecture and --model-option say of a model; a run folder knows it itself."""
    options = dict(pair("--model-option", item) for item in given or [])
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


def pair(option: str, item: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE, the value read as YAML."""
    name, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(f"{option}: found {item!r}, expected NAME=VALUE, e.g. mean=[0.49,0.48,0.45]")
    return name, value(text, option)


def value(text: str, option: str = "--set") -> Any:
    """The value of an option, read as YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{option}: found {text!r}, expected a YAML value: {' '.join(str(error).split())}"
        ) from error


def keep(run: Run, name: str, plan: Plan) -> None:
    """Refuse to replace a result of another plan, which a study may stand on."""
    for ending, one in plan.of_checkpoints(run.kept()).items():
        found = run.read_json(f"{name}{ending}")
        if found is not None and found.get("plan") != one.model_dump(mode="json"):
            file = f"{run.folder}/{name}{ending}.json"
            raise ConfigError(f"{file}: holds the result of another plan; give --out")


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings."""
    *path, last = key.split(".")
    for part in path:
        inside = values.get(part)
        values[part] = inside = dict(inside) if isinstance(inside, dict) else {}
        values = inside
    values[last] = value
