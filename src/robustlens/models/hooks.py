"""Forward hooks: calls as the layers of a network begin and end, taken off again whatever happens."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
"""(module, arguments, arguments by name)."""
After = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]
"""(module, arguments, arguments by name, output); what it returns, unless None, is the output instead."""
Convolutional = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)
"""Convolutions and transposed ones."""
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
MatrixLayer = Convolutional | nn.Linear
"""Layers that are a matrix and a bias."""


@contextlib.contextmanager
def hooked(
    modules: Iterable[nn.Module], *, before: Before | None = None, after: After | None = None
) -> Iterator[None]:
    """Inside, `before` is called as each of the modules begins, and `after` as it ends."""
    handles = []
    try:
        for module in modules:
            if before is not None:
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if after is not None:
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def reading(modules: Iterable[nn.Module], read: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Inside, `read` gets each of the modules, and what it reads, as it begins."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(module, input_of(args, kwargs))

    with hooked(modules, before=before):
        yield


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor that torch's own layers read, among the arguments of their call."""
    return args[0] if args else kwargs["input"]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments of a call."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def matrix_layers(model: nn.Module) -> dict[str, MatrixLayer]:
    """The convolutions and linear layers of a network by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MatrixLayer)}
