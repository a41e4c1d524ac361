"""Convolutions as linear maps, and their transposes."""

import pytest
import torch
from torch import nn

from helpers.convolutions import CONVOLUTIONS, dense_operator, zero_padded

layers = pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=str)


@layers
def test_the_transposed_convolution_is_the_transposed_matrix(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    convolution = zero_padded(layer, size)
    outputs = torch.randn(2, layer.out_channels, *convolution.out_size, dtype=torch.float64)
    expected = outputs.flatten(1) @ dense_operator(layer, size, "zero")
    torch.testing.assert_close(convolution.adjoint(outputs).flatten(1), expected)
