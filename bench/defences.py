"""Small networks on Fashion-MNIST that some defence protects, for the benches of attacks.

Trained here, in seconds: 4,000 training images, 6 epochs of Adam, one seed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from filelock import FileLock
from torch import Tensor, nn

import robustlens as rl


class Quantised(nn.Module):
    """The input in 17 levels."""

    def forward(self, x: Tensor) -> Tensor:
        """Its pixels, rounded."""
        return (16 * x).round() / 16


class Winners(nn.Module):
    """The largest 20 % of an image's values; all others are 0 (Xiao, Zhong and Zheng 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """The winners."""
        flat = x.flatten(1)
        least = flat.topk(flat.shape[1] // 5, dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, torch.zeros_like(flat)).view_as(x)


class Shaken(nn.Module):
    """The input with noise, at a random size from 28 to 32 (Xie et al. 2018 resize and pad)."""

    def forward(self, x: Tensor) -> Tensor:
        """Another version of the images in every pass."""
        size = int(torch.randint(28, 33, ()))
        larger = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        larger = F.pad(larger, (0, 32 - size, 0, 32 - size))
        back = F.interpolate(larger, size=(28, 28), mode="bilinear", align_corners=False)
        return back + 0.05 * torch.randn_like(back)


def undefended(activation: type[nn.Module] = nn.ReLU, *, batch_norm: bool = False) -> nn.Sequential:
    """Two convolutions and two linear layers, not trained."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(16)] if batch_norm else [nn.Identity(), nn.Identity()]
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 4, stride=2), norms[0], activation()),
        *(nn.Conv2d(8, 16, 4, stride=2), norms[1], activation(), nn.Flatten()),
        *(nn.Linear(400, 64), activation(), nn.Linear(64, 10)),
    )


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model`, after training on clean images, in eval mode."""
    split = rl.data.load("fashion-mnist-10k").train.take(4000, seed)
    x, y = split.x(), split.labels
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(6):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            optimizer.zero_grad()
            torch.manual_seed(int(rows[0]))
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "none": lambda: trained(undefended()),
    "input quantiser": lambda: nn.Sequential(Quantised(), trained(undefended())).eval(),
    "k winners take all": lambda: trained(undefended(Winners)),
    "noise and resizing": lambda: trained(nn.Sequential(Shaken(), undefended())),
    "BatchNorm, none": lambda: trained(undefended(batch_norm=True)),
}
"""Networks by the name of their defence; "none" has none."""


def kept(path: Path, command: str) -> dict[str, Any]:
    """The rows of a result that the same command has written, to go on from; none of another's."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return dict(content["rows"]) if content["command"] == command else {}


def keep(path: Path, command: str, name: str, row: dict[str, Any]) -> None:
    """Write a row beside those that are there, in the order of `NETWORKS`; several processes may."""
    with FileLock(f"{path}.lock"):
        rows = kept(path, command) | {name: row}
        content = {
            "command": command,
            "seed": 0,
            "rows": {each: rows[each] for each in NETWORKS if each in rows},
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
