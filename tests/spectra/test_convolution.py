"""Convolutions as linear maps, and their transposes."""

import pytest
import torch
from torch import nn

from helpers.convolutions import CONVOLUTIONS, dense_operator
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.layers import Layer

layers = pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=str)


@pytest.mark.parametrize("operator", ["zero", "circular"])
@layers
def test_the_transposed_convolution_is_the_transposed_matrix(
    layer: nn.Conv2d, size: tuple[int, int], operator: str
) -> None:
    convolution = Convolution.of(Layer(layer, size), operator)
    outputs = torch.randn(2, layer.out_channels, *convolution.out_size, dtype=torch.float64)
    expected = outputs.flatten(1) @ dense_operator(layer, size, operator)
    torch.testing.assert_close(convolution.adjoint(outputs).flatten(1), expected)


@pytest.mark.parametrize("operator", ["zero", "circular"])
@layers
def test_the_squared_norm_is_that_of_the_matrix(
    layer: nn.Conv2d, size: tuple[int, int], operator: str
) -> None:
    """Also where the kernel is larger than the map, so that several taps read one pixel."""
    convolution = Convolution.of(Layer(layer, size), operator)
    expected = float(dense_operator(layer, size, operator).square().sum())
    assert convolution.squared_norm() == pytest.approx(expected, rel=1e-12)
