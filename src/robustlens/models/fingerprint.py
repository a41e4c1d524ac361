"""The identity of a network, in sixteen digits."""

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """A hash of all parameters and buffers, to the bit, and of the kinds of layers and their settings.

    Code that a forward pass runs beside its layers does not enter it.
    """
    digest = hashlib.sha256()
    for module in model.modules():
        digest.update(
            f"{type(module).__module__}.{type(module).__qualname__}({module.extra_repr()})".encode()
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()[:16]


def _raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values in order, on any device and in any layout."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
