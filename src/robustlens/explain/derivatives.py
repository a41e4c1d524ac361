"""Derivatives by the input: of the log odds against the label, and of any function along a direction."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustlens.errors import ModelError
from robustlens.models import as_logits, forward, frozen


def log_odds_gradient(
    model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"]
) -> Float[Tensor, "n ..."]:
    """Gradient by x of `log sum_{i != y} exp(f_i) - f_y`, of which the cross entropy is the softplus.

    It is the gradient of the cross entropy divided by 1 - p_y: it points the same way, and is not rounded to
    0 where the network is sure.

    Raises:
        ModelError: the logits carry no gradient, or are not (n, classes).
    """
    with frozen(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = with_gradient(as_logits(forward(model, leaf * 1), len(leaf)))  # a network may write to it
        others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
        odds = others - logits.gather(1, y[:, None]).squeeze(1)
        return torch.autograd.grad(odds.sum(), leaf, materialize_grads=True)[0]


def with_gradient(logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """The logits, if they can be differentiated.

    Raises:
        ModelError: they carry no gradient.
    """
    if not logits.requires_grad:
        raise ModelError(
            "model: its logits carry no gradient with respect to the input, expected a differentiable "
            "network; remove the no_grad, detach or rounding inside its forward pass, or leave out the "
            "measures of gradients"
        )
    return logits


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
