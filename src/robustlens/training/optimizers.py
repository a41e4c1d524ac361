"""Optimizers by name."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from robustlens.config import OptimizerSpec
from robustlens.errors import ConfigError
from robustlens.registry import Registry, parameters_of

Beta = Annotated[float, Field(ge=0, lt=1)]
Eps = Annotated[float, Field(ge=0)]
Parameters = Iterable[nn.Parameter]


def _sgd(
    parameters: Parameters, *, lr: float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> torch.optim.SGD:
    own = list(parameters)
    return torch.optim.SGD(
        own,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        fused=own[0].is_cuda or None,  # one kernel for all tensors
    )


def _of_adam(kind: type[torch.optim.Adam]) -> Callable[..., torch.optim.Adam]:
    """What builds Adam or AdamW, which have the same options."""

    def build_kind(
        parameters: Parameters,
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        eps: Eps = 1e-8,
        amsgrad: bool = False,
    ) -> torch.optim.Adam:
        return kind(parameters, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, amsgrad=amsgrad)

    return build_kind


OPTIMIZERS: Registry[Any] = Registry(
    "optimizer",
    {"sgd": _sgd, "adam": _of_adam(torch.optim.Adam), "adamw": _of_adam(torch.optim.AdamW)},
    hidden=("lr", "weight_decay"),
    factories=True,
    result_type=torch.optim.Optimizer,
)
"""Optimizers by name; `OptimizerSpec.name` has the same names. A factory is called as these are."""


def build(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer that a recipe asks for.

    Raises:
        ConfigError: unknown options, a factory that fails, or an optimizer that needs a closure.
    """
    where = "optimizer.options"
    if spec.name == "sgd" and spec.options:
        raise ConfigError(
            f"{where}: found {', '.join(spec.options)}, but sgd has momentum and nesterov beside lr"
        )
    own = {"momentum": spec.momentum, "nesterov": spec.nesterov} if spec.name == "sgd" else spec.options
    checked = OPTIMIZERS.checked(spec.name, own, where)
    optimizer: torch.optim.Optimizer = OPTIMIZERS.call(
        spec.name,
        OPTIMIZERS.find(spec.name, "optimizer.name"),
        parameters,
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        **checked,
    )
    closure = parameters_of(optimizer.step).get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"optimizer.name: found {spec.name!r}, which needs a closure; expected one that does not"
        )
    return optimizer
