"""Tensors by name: whether they fit a network, and putting them into it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustlens.errors import ModelError


def faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Reasons why `tensors` cannot take the places of `wanted`: a phrase for each, none if they fit.

    Half precision and double precision fit, for they are converted; integers do not.
    """
    missing = [f"has no tensor {key!r}" for key in wanted if key not in tensors]
    unexpected = [f"has an unexpected tensor {key!r}" for key in tensors if key not in wanted]
    unfit = []
    for key in [key for key in wanted if key in tensors]:
        ours, theirs = wanted[key], tensors[key]
        if ours.shape != theirs.shape:
            unfit.append(f"tensor {key!r} has shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point():
            unfit.append(f"tensor {key!r} holds {theirs.dtype}, expected {ours.dtype}")
    return missing + unexpected + unfit


def in_words(phrases: list[str]) -> str:
    """The first of some faults, and how many more there are."""
    return phrases[0] + (f" (and {len(phrases) - 1} more)" if len(phrases) > 1 else "")


def make_writable(model: nn.Module) -> None:
    """Give each entry of each buffer memory of its own; a buffer of several modules stays one.

    Torch writes to no tensor of which several entries share memory (`expand`), and tensors are loaded,
    averaged and sent to other processes by writing.
    """
    shared = {id(buffer): buffer for buffer in model.buffers() if _shares_memory(buffer)}
    written = {key: buffer.clone(memory_format=torch.contiguous_format) for key, buffer in shared.items()}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if id(buffer) in written:
                setattr(module, name, written[id(buffer)])


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of each on the CPU: safetensors refuses those that share memory or are not contiguous."""
    return {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }


def _shares_memory(buffer: Tensor) -> bool:
    """Whether several entries lie at one place."""
    if is_lazy(buffer) or buffer.layout != torch.strided:
        return False
    return any(size > 1 and not stride for size, stride in zip(buffer.shape, buffer.stride(), strict=True))


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Copy `tensors` into `model`; every tensor must be there and fit.

    Raises:
        ModelError: one is missing, unexpected, or of another shape or kind; the line starts with `where`. The
            model is then unchanged.
    """
    wanted = model.state_dict()
    phrases = faults(tensors, wanted)
    if phrases:
        raise ModelError(f"{where}: {in_words(phrases)}; expected the {len(wanted)} tensors of its network")
    make_writable(model)
    model.load_state_dict(dict(tensors))
