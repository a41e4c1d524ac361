"""State of an optimizer as tensors and plain values, from which it goes on bit for bit."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robustlens.errors import ConfigError

_MOMENTUM = "momentum_buffer"  # SGD's, which files have as "momentum.0"


def packed(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name; and what else is kept for each parameter and each group.

    Raises:
        ConfigError: the optimizer keeps what is neither a tensor nor a number.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for number, kept in optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor):
                tensors[f"momentum.{number}" if name == _MOMENTUM else f"optimizer.{number}.{name}"] = value
            elif isinstance(value, int | float | str):
                numbers.setdefault(str(number), {})[name] = value
            elif value is not None:
                kind = type(optimizer).__name__
                raise ConfigError(
                    f"optimizer.name: {kind} keeps a {type(value).__name__} ({name}) for a parameter, "
                    "expected tensors and numbers, which can be saved"
                )
    groups = [
        {name: value for name, value in group.items() if name != "params" and _is_number(value)}
        for group in optimizer.param_groups
    ]
    return tensors, {"state": numbers, "groups": groups}


def restore(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Take up what `packed` gave; raises `ValueError` where it is of other parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        kind, number, *name = key.split(".", 2)
        if kind in ("momentum", "optimizer"):
            state.setdefault(int(number), {})[name[0] if name else _MOMENTUM] = tensor
    for number, kept in values.get("state", {}).items():
        state.setdefault(int(number), {}).update(kept)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for place, kept in state.items():  # torch casts what is floating to the type of its parameter
        own = optimizer.state[parameters[place]]
        own |= {
            name: _laid_out(value, parameters[place]).to(own[name].device)
            for name, value in kept.items()
            if isinstance(value, Tensor)
        }
    for group, saved in zip(optimizer.param_groups, values.get("groups", []), strict=False):
        group |= {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` in its parameter's layout, as the optimizer had it: files have all tensors contiguous.

    Fused optimizers go through both in the order of their memory: CUDA's refuses two layouts, and the CPU's
    mixes the elements up.
    """
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _is_number(value: object) -> bool:
    """Numbers change over a run; what is true or false says how to compute, which depends on the device."""
    if isinstance(value, tuple):
        return all(_is_number(each) for each in value)
    return isinstance(value, int | float) and not isinstance(value, bool)
