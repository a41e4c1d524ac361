"""A linear model of two classes, under which every attack is known, and images for it."""

import torch
from torch import Tensor, nn


def linear(seed: int = 0) -> nn.Linear:
    """From ten values to two logits, in float64."""
    torch.manual_seed(seed)
    return nn.Linear(10, 2).double()


def data(n: int = 16) -> tuple[Tensor, Tensor]:
    """Images of ten values around 1/2, and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 10, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    return x, torch.randint(0, 2, (n,), generator=generator)


def sides(y: Tensor) -> Tensor:
    """1 for class 0 and -1 for class 1."""
    return torch.where(y == 0, 1.0, -1.0).double()
