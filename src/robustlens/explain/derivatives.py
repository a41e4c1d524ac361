"""Derivatives along a direction, of networks whose fused operations have none."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def unfused_attention() -> Iterator[None]:
    """Inside, attention is made of operations that can be differentiated forwards, and twice."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def jvp(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """`function(x)` and its derivative at `x` along `direction`.

    By forward differentiation, or by two backward passes where an operation has no forward derivative.
    """
    with unfused_attention():
        try:
            value, slope = torch.func.jvp(function, (x,), (direction,))[:2]
        except (NotImplementedError, RuntimeError):
            value, slope = torch.autograd.functional.jvp(function, x, direction)
    return value, slope
