"""A small ReLU network in float64, and images for it."""

import torch
from torch import Tensor, nn


def network(inplace: bool = False) -> nn.Sequential:
    """Two linear layers with a ReLU between them, the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3)).double()


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    """Images of six values, and labels of three classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)
