"""A model that notes in which kind of float32 products it runs."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def switches() -> list[Any]:
    """The settings of every operation, and the older names of them where they can be read."""
    backends: Any = torch.backends
    kinds = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
    )
    found = [kind.fp32_precision for kind in kinds]
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found


class Watching(nn.Module):
    """Linear model of (n, 12) to 4 classes that notes the settings at every pass; its copies share the notes."""

    seen: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        self.seen.append(switches())
        return self.linear(x.flatten(1))


def network(num_classes: int = 4, in_channels: int = 1) -> nn.Module:
    """The model as a recipe's factory."""
    return Watching()
