"""Networks that minimum-norm searches are tried on, and a count of what a search costs."""

import functools

import torch
from torch import nn


class Counted(nn.Module):
    """A model that counts the images it sees, with and without a gradient, and remembers those without."""

    def __init__(self, model):
        super().__init__()
        self.model, self.tracked, self.judged, self.batches = model, 0, 0, []

    def forward(self, x):
        if x.requires_grad:
            self.tracked += len(x)
        else:
            self.judged += len(x)
        self.batches.append(x.detach().clone())
        return self.model(x)


@functools.cache
def trained_network(steps=300):
    """A small network for four interleaved classes in ten dimensions; images and labels."""
    torch.manual_seed(0)
    x = torch.rand(400, 10, dtype=torch.float64)
    y = (x[:, :2].sum(1) * 3 + torch.sin(6 * x[:, 2:4].sum(1))).long().clamp(0, 3)
    model = nn.Sequential(
        nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 4)
    ).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x[:50], y[:50]
