"""Any function from images to logits as a network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustlens import models
from robustlens.errors import ConfigError
from robustlens.registry import one_line


class ForwardFunction(nn.Module):
    """A function from images to logits, which computes on `device`; the networks in it are in eval mode."""

    def __init__(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("place", torch.zeros(0, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """The function's logits."""
        return self.function(x)


def network_of(
    model: nn.Module | Callable[[Tensor], Tensor], device: str | torch.device | None, where: str
) -> nn.Module:
    """The model as a network: itself, the one whose method it is, or a network that calls it.

    Args:
        model: a network, or a function of images.
        device: of the images; None for the model's own. A function without one computes on the CPU.
        where: the argument, for messages.

    Raises:
        ConfigError: it cannot be called, or a network lies on another device; there is no such device.
    """
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(model, "__name__", "") in ("forward", "__call__"):
        model = owner
    if not callable(model):
        raise ConfigError(
            f"{where}: found {type(model).__name__}, expected a network or a function of images"
        )
    try:
        asked = None if device is None else torch.device(device)
        if not isinstance(model, nn.Module):
            return ForwardFunction(model, asked or torch.device("cpu"))
    except (RuntimeError, TypeError, AssertionError) as error:  # an unknown device, or one that is not here
        raise ConfigError(
            f"{where}: found device {device!r} ({one_line(error)}), expected cpu or cuda"
        ) from error
    own = models.device_of(model, default=asked)
    if asked is not None and (asked.type != own.type or asked.index not in (None, own.index)):
        raise ConfigError(
            f"{where}: found the network on {own} and device {asked}; move it with model.to({str(asked)!r})"
        )
    return model
