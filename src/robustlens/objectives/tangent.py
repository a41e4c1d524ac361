"""The loss of an image to first order, kept differentiable: where objectives that want a smooth loss begin.

The input gradient becomes part of the objective, so training differentiates twice. BatchNorm in train mode
ties the examples of a batch; the gradient is then that of the batch's summed loss.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks.base import NO_INPUT_GRADIENT
from robustlens.errors import ModelError
from robustlens.losses import Labels


@dataclass(frozen=True)
class Tangent:
    """Cross entropy at `x`, per example, and its gradient there, both functions of the weights."""

    x: Float[Tensor, "n ..."]
    loss: Float[Tensor, " n"]
    gradient: Float[Tensor, "n ..."]

    @classmethod
    def at(cls, model: nn.Module, x: Float[Tensor, "n ..."], y: Labels) -> "Tangent":
        """One forward pass, and one backward pass to the input.

        Raises:
            ModelError: the logits do not depend on the input through autograd.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = losses.cross_entropy(model(leaf), y)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True, allow_unused=True)
        if gradient is None:
            raise ModelError(NO_INPUT_GRADIENT)
        return cls(x.detach(), loss, gradient)

    def detached(self) -> "Tangent":
        """The same numbers, as constants."""
        return Tangent(self.x, self.loss.detach(), self.gradient.detach())

    def linear_increase(self, x_adv: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Increase of the loss from x to x_adv to first order."""
        return ((x_adv - self.x) * self.gradient).flatten(1).sum(1)

    def violation(self, model: nn.Module, x_adv: Float[Tensor, "n ..."], y: Labels) -> Float[Tensor, " n"]:
        """Distance of the loss at x_adv from the tangent."""
        return (losses.cross_entropy(model(x_adv), y) - self.loss - self.linear_increase(x_adv)).abs()
