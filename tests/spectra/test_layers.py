"""Layers that a forward pass calls, and how they describe themselves."""

import pytest
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from robustlens import models
from robustlens.errors import ConfigError
from robustlens.spectra import spectrum, trace


def test_layers_that_are_never_called_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 4, 5))
    model[1].spare = nn.Linear(2, 2)
    assert list(trace(model, (2, 8, 6))) == ["0", "3"]


class Twice(nn.Module):
    """One convolution at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(F.avg_pool2d(self.shared(x), 2)).flatten(1)


def test_a_layer_at_two_sizes_is_no_single_operator() -> None:
    with pytest.raises(
        ConfigError, match=r"'shared' sees feature maps of \(2, 2\), \(4, 4\), expected one size"
    ):
        spectrum(Twice(), (1, 4, 4))


def test_layers_describe_themselves() -> None:
    model = models.get("small-cnn", num_classes=10, in_channels=1)
    assert {name: str(layer) for name, layer in trace(model, (1, 28, 28)).items()} == {
        "conv1": "conv 1 -> 16, 4x4, stride 2, on 28x28",
        "conv2": "conv 16 -> 16, 3x3, on 14x14",
        "conv3": "conv 16 -> 32, 4x4, stride 2, on 14x14",
        "conv4": "conv 32 -> 32, 3x3, on 7x7",
        "linear1": "linear 1568 -> 100",
        "linear2": "linear 100 -> 10",
    }
