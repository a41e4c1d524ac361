"""Using a network without leaving a trace: what every attack, measure and extra pass goes through."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


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
                put_back(buffer, saved)
                setattr(module, name, buffer)


def put_back(tensor: Tensor, saved: Tensor) -> None:
    """Give `tensor` the values that it had. What torch lets nobody write is as it was: then that will do.

    That is memory which several entries share (`expand`), and what was made under `torch.inference_mode()`.
    The others are not compared first: a GPU would be waited for.
    """
    try:
        tensor.copy_(saved)
    except RuntimeError:
        if not identical(tensor, saved):
            raise


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values, a NaN being the same as a NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


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
    """Take gradients of `weights` inside, or none of them; each `requires_grad` is put back at the end.

    Those that were made under `torch.inference_mode()`, which has no gradients, stay as they are.
    """
    changed = [weight for weight in weights if weight.requires_grad != on and not weight.is_inference()]
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
