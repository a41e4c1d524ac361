"""Starting a network from the weights of another."""

import torch
from torch import nn

from robustlens.errors import ModelError
from robustlens.models.tensors import make_writable


@torch.no_grad()
def start_from(model: nn.Module, other: nn.Module, *, new_head: bool = False) -> None:
    """Copy the weights and buffers of `other` into `model`, which is of the same architecture.

    Normalisation comes along, since the weights were trained behind it.

    Args:
        model: gets the weights.
        other: has them, and stays as it is.
        new_head: leave the last linear layer of `model` as it is, for other classes or a fresh start.

    Raises:
        ModelError: a tensor is missing, of no use, or of another shape; nothing has been copied.
    """
    make_writable(model)
    own, theirs = model.state_dict(), other.state_dict()
    if new_head:
        head = tuple(f"{name}." for name in _names_of_last_linear(model))
        own, theirs = ({k: v for k, v in d.items() if not k.startswith(head)} for d in (own, theirs))
    for name in sorted({*own, *theirs}):
        expected, loaded = (tuple(d[name].shape) if name in d else None for d in (own, theirs))
        if expected != loaded:
            hint = "; with other classes give init.new_head" if not new_head else ""
            raise ModelError(
                f"init: {name} is {loaded} in the network to start from, expected {expected}{hint}"
            )
    for name, tensor in own.items():
        tensor.copy_(theirs[name])


def _names_of_last_linear(model: nn.Module) -> list[str]:
    """All names that the state dict has for it."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ModelError("init.new_head: the network has no linear layer that could be its head")
    places = model.named_modules(remove_duplicate=False)
    return [name for name, module in places if module is layers[-1]]
