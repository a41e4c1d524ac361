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
    try:
        with preserved_state(model), tracking(model.parameters(), on=False):
            model.train(mode == "train")
            yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def tracking(weights: Iterable[nn.Parameter], *, on: bool = True) -> Iterator[None]:
    """Take gradients of `weights` inside, or none of them; each `requires_grad` is put back at the end."""
    changed = [weight for weight in weights if weight.requires_grad != on]
    try:
        for weight in changed:
            weight.requires_grad_(on)
        yield
    finally:
        for weight in changed:
            weight.requires_grad_(not on)


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Look at `model` in eval mode, without gradients, and leave it as it was."""
    with frozen(model), torch.no_grad():
        yield
