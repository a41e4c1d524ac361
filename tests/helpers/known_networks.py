"""Networks whose norms or margins are known."""

import torch
from torch import nn

WIDE = (-100.0, 100.0)
"""A box of pixels that no search comes near the sides of."""


def warm(module: nn.Module) -> nn.Module:
    """The module with weights and statistics that are not those of a fresh network."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 2.0) if "running_var" in name else tensor.data.normal_()
    return module.eval()


def orthogonal_network(seed: int = 0, dim: int = 12, depth: int = 3) -> nn.Sequential:
    """Two classes, orthogonal layers without bias: v(x) = M(x) / ||w_1 - w_0|| exactly."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(dim, dim, bias=False)
        layer.weight.data = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
        layers.append(layer)
    head = nn.Linear(dim, 2, bias=False)
    head.weight.data = torch.randn(2, dim, generator=generator)
    return nn.Sequential(*layers, head)
