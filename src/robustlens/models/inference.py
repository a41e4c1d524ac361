"""Using a network without leaving a trace: what every attack, measure and extra pass goes through."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


@contextlib.contextmanager
def preserved_state(model: nn.Module) -> Iterator[None]:
    """Put buffers (running statistics) and the global random state (dropout) back at the end."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                setattr(module, name, buffer.copy_(saved))


@contextlib.contextmanager
def frozen(model: nn.Module, mode: str = "eval") -> Iterator[None]:
    """Use `model` in `mode`, "eval" or "train", without leaving a trace, whatever happens inside.

    Parameters ask for no gradient inside, so a backward pass costs the input gradient only. Training flags
    of every submodule, `requires_grad` of every parameter, buffers (BatchNorm writes them in train mode, some
    networks in eval mode too) and the global random state are put back at the end.
    """
    flags = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with preserved_state(model):
            model.train(mode == "train")
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def tracking(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients of `weights` be taken; those that are frozen are so again at the end."""
    frozen_weights = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen_weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen_weights:
            weight.requires_grad_(False)


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Look at `model` in eval mode, without gradients, and leave it as it was."""
    with frozen(model), torch.no_grad():
        yield
