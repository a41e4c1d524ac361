"""A network that torch compiles for a few sizes of a batch, to which smaller batches are filled up."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._functorch import config

from robustlens.errors import ConfigError, StoppedError
from robustlens.registry import one_line

_PARTS = (16, 4, 1)
"""Sizes of a batch that are compiled: these parts of the largest."""


_Compiled = TypeVar("_Compiled")


def compiled_apart(what: _Compiled, **options: Any) -> _Compiled:
    """`torch.compile`, counted by itself.

    Torch compiles the same code a few times and then runs it as it is. Networks share theirs, so those that
    the process compiled before would count.
    """
    untyped: Any = torch.compile  # its overloads leave this option out
    return untyped(what, isolate_recompiles=True, **options)


class CompiledNetwork(nn.Module):
    """The logits of `network`, compiled for batches of `batch_size`, a quarter and a sixteenth of it.

    A batch is filled up with its first image to the next of these sizes, and the logits of what was added are
    dropped. So an attack whose survivors become fewer does not make torch compile again at each step. Rows of
    `network` must not depend on one another, as those of a network in eval mode.

    Args:
        network: frozen, in eval mode.
        batch_size: images of the largest batch; more are filled up to a multiple of it.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.sizes = sorted({max(1, batch_size // part) for part in _PARTS})
        self.network = compiled_apart(network, dynamic=False)

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """Logits of n images, n from 0."""
        wanted = self._size(max(1, len(x))) - len(x)
        first = x[:1].detach() if len(x) else x.new_zeros(1, *x.shape[1:])
        filled = torch.cat([x, first.expand(wanted, *x.shape[1:])]) if wanted else x
        return self.network(filled)[: len(x)]

    def _size(self, count: int) -> int:
        """Rows of the compiled batch that holds so many images."""
        largest = self.sizes[-1]
        return next((size for size in self.sizes if size >= count), -(-count // largest) * largest)


@contextlib.contextmanager
def repeated_gradients() -> Iterator[None]:
    """Let a pass of what is compiled inside give several gradients: FAB asks for one a class.

    By default torch lets the first backward pass overwrite what it has read.
    """
    with config.patch(donated_buffer=False):
        yield


def compiled_copy(network: nn.Module, x: Float[Tensor, "n ..."], batch_size: int) -> CompiledNetwork:
    """`network`, compiled, and tried with one pass forwards and one backwards.

    Use it inside `repeated_gradients`.

    Args:
        network: frozen, in eval mode, as `fast_copy` returns it.
        x: a few images to try it on, on the network's device.
        batch_size: images of the largest batch.

    Raises:
        ConfigError: torch cannot compile it.
    """
    try:
        compiled = CompiledNetwork(network, batch_size)
        leaf = x.detach().clone().requires_grad_()
        compiled(leaf).sum().backward()
    except StoppedError:
        raise
    except Exception as error:
        raise ConfigError(
            f"evaluate.compile: found a network that torch cannot compile ({one_line(error)}); leave it out"
        ) from error
    return compiled
