"""Layers of every kind, for networks of images (4, 6), and whether a spectrum covers them."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Weighted(nn.Module):
    """Tokens with a learnt first one, and a convolution whose kernel is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 4, 1))
        self.register_buffer("blur", torch.rand(4, 1, 3))
        self.part = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(len(x), -1, -1), x], 2)
        return F.conv1d(tokens, self.get_buffer("blur"), groups=4)


class Functional(nn.Module):
    """A linear layer that is never called: its weight is used by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.spare = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.lost.weight, self.lost.bias)


class Standardised(nn.Conv1d):
    """A convolution with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(input, self.weight - self.weight.mean(), self.bias, padding=1)


class Recurrent(nn.Module):
    """The last output of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Looked(nn.Module):
    """Positions from an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding(torch.arange(4))


class Mixed(nn.Module):
    """A bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(6, 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x, x)


torch.manual_seed(0)  # the same weights whatever was imported before
ENCODER = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
COVERED = {
    "linear": nn.Linear(6, 5),
    "conv1d": nn.Conv1d(4, 3, 3),
    "conv2d": nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv2d(1, 3, 3)),
    "conv3d": nn.Sequential(nn.Unflatten(1, (1, 1, 4)), nn.Conv3d(1, 3, (1, 3, 3))),
    "transposed 1d": nn.ConvTranspose1d(4, 3, 3),
    "transposed 2d": nn.Sequential(nn.Unflatten(1, (1, 4)), nn.ConvTranspose2d(1, 3, 3)),
    "transposed 3d": nn.Sequential(nn.Unflatten(1, (1, 1, 4)), nn.ConvTranspose3d(1, 3, (1, 3, 3))),
    "attention": ENCODER.self_attn,
    "batch norm": nn.BatchNorm1d(4),
    "weight norm": parametrizations.weight_norm(nn.Conv1d(4, 4, 3)),
    "encoder layer": ENCODER,
}
UNCOVERED = {
    "LSTM": Recurrent(),
    "Embedding": Looked(),
    "Bilinear": Mixed(),
    "parameter": Weighted(),
    "buffer": Weighted(),
    "function": Functional(),
    "subclass": Standardised(4, 4, 3),
    "PReLU": nn.PReLU(4),
    "GroupNorm": nn.GroupNorm(2, 4),
    "LayerNorm": nn.LayerNorm(6),
    "InstanceNorm": nn.InstanceNorm1d(4, affine=True),
    "batch norm on batches": nn.BatchNorm1d(4, track_running_stats=False),
    "biases of attention": nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True),
    "script": torch.jit.script(nn.Linear(6, 5)),
}


class Twice(nn.Module):
    """Attention of an image with itself."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def around(module: nn.Module) -> nn.Module:
    """A network of images (4, 6) with the module in its middle."""
    inner = Twice(module) if isinstance(module, nn.MultiheadAttention) else module
    return nn.Sequential(nn.Conv1d(4, 4, 1), inner, nn.Flatten()).eval()
