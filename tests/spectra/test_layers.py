"""Layers that a forward pass calls, and how they describe themselves."""

import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from robustlens import models
from robustlens.spectra import spectrum, trace, uncovered
from robustlens.spectra.coverage import in_words


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
    model = nn.Sequential(Twice(), nn.Linear(4, 2))
    assert list(spectrum(model, (1, 4, 4))) == ["1"]
    assert in_words(uncovered(model, (1, 4, 4))) == "0.shared (Conv2d on feature maps of several sizes)"


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
