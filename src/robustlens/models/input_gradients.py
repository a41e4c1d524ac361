"""Networks whose logits carry no gradient with respect to the input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import StoppedError
from robustlens.models.inference import frozen


def has_input_gradient(model: nn.Module, x: Float[Tensor, "n ..."]) -> bool:
    """Whether autograd leads from the logits to the images. True where the pass fails: attacks say how.

    Args:
        model: left as it was.
        x: a few images on the model's device.
    """
    with frozen(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        try:
            value = model(leaf * 1).sum()  # a network may write to its input
            if not value.requires_grad:
                return False
            return torch.autograd.grad(value, leaf, allow_unused=True)[0] is not None
        except StoppedError:
            raise
        except Exception:  # code of others can raise anything
            return True


class ZeroGradient(nn.Module):
    """The logits of `network`, with a gradient of zero where autograd leads to no image.

    Attacks then take it as any flat network: what needs no gradient, a random start for instance, goes on.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """The logits."""
        logits: Tensor = self.network(x)
        return logits + (0 * x.flatten(1)[:, :1]).to(logits.dtype)
