"""Recipes that do not go together with their data, refused before the first epoch."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from robustlens.config import OptimizerSpec, Recipe, radius_problem
from robustlens.data import Splits
from robustlens.errors import ConfigError
from robustlens.training import optimizers
from robustlens.training.schedules import schedule_for


def check_optimizer(spec: OptimizerSpec) -> None:
    """Raise `ConfigError` where an optimizer or its schedule cannot be made with these options."""
    with _without_compiler():
        optimizer = optimizers.build(spec, [nn.Parameter(torch.zeros(1))])
        schedule_for(spec, optimizer, steps=1)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let optimizers be made that take no step, without torch's compiler.

    torch tells its compiler to leave alone what adds parameters, and imports it for that, which takes as long
    as to import torch.
    """
    kind = torch.optim.Optimizer
    marked = kind.add_param_group
    kind.add_param_group = inspect.unwrap(marked)  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.add_param_group = marked  # type: ignore[method-assign]


def check_fit(recipe: Recipe, splits: Splits) -> None:
    """Raise `ConfigError` where a recipe asks of these images what they cannot give."""
    _check_radius(recipe, splits)
    _check_patience(recipe, splits)


def _check_radius(recipe: Recipe, splits: Splits) -> None:
    """Refuse a radius that reaches any image of this size."""
    threat = recipe.threat
    problem = radius_problem(threat.norm, threat.eps, dimensions=math.prod(splits.shape))
    if problem:
        raise ConfigError(f"recipe.threat.eps: {problem}")


def _check_patience(recipe: Recipe, splits: Splits) -> None:
    """Refuse what waits for a better epoch, of the network or its teacher, without images that show one."""
    specs = {"optimizer": recipe.optimizer}
    if recipe.pseudo_labels is not None:
        specs["pseudo_labels.teacher"] = recipe.pseudo_labels.teacher
    for name, spec in specs.items():
        if spec.schedule == "ReduceLROnPlateau" and len(splits.validation) == 0:
            raise ConfigError(
                f"{name}.schedule: found ReduceLROnPlateau without validation images, whose error it "
                "looks at; set data.validation above 0"
            )
        if spec.patience is not None and len(splits.validation) == 0:
            raise ConfigError(
                f"{name}.patience: found {spec.patience} without validation images, by which an epoch is "
                "better than another; set data.validation above 0"
            )
