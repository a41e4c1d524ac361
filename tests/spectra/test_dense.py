"""Matrices of convolutions against the layers themselves, and against closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.convolutions import conv, dense_operator, dense_values
from robustlens.errors import ConfigError
from robustlens.spectra import spectrum
from robustlens.spectra.dense import dense_singular_values
from robustlens.spectra.layers import Layer


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 0, "stride": 2},
        {"padding": (2, 1), "dilation": 2},
        {"padding": "same", "groups": 2},
        {"padding": "valid"},
    ],
    ids=str,
)
def test_the_zero_padded_matrix_is_the_layer(options: dict[str, Any]) -> None:
    layer = conv(2, 4, 3, bias=False, **options)
    x = torch.randn(3, 2, 6, 7, dtype=torch.float64)
    matrix = dense_operator(layer, (6, 7), "zero")
    torch.testing.assert_close(x.flatten(1) @ matrix.T, layer(x).flatten(1))


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_circular_matrix_is_the_layer_that_pads_circularly(dilation: int) -> None:
    layer = conv(2, 3, 3, bias=False, padding="same", padding_mode="circular", dilation=dilation)
    x = torch.randn(3, 2, 6, 5, dtype=torch.float64)
    matrix = dense_operator(layer, (6, 5), "circular")
    torch.testing.assert_close(x.flatten(1) @ matrix.T, layer(x).flatten(1))


def test_a_zero_padded_mean_filter_has_its_closed_form() -> None:
    layer = conv(1, 1, 3, padding=1)
    nn.init.constant_(layer.weight, 1 / 9)
    side = 6
    # The eigenvalues of a tridiagonal Toeplitz matrix, along each side.
    line = (1 + 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))) / 3
    expected = np.sort(np.abs(np.outer(line, line)).ravel())[::-1]
    found = spectrum(nn.Sequential(layer, nn.Flatten()), (1, side, side), operator="zero")["0"]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_large_dense_matrices_are_refused_before_they_are_built() -> None:
    with pytest.raises(
        ConfigError,
        match=r"conv 3 -> 4, 3x3, on 8x8 is 256 x 192, 393216 bytes, expected at most max_bytes = 1000",
    ):
        dense_singular_values(Layer(conv(3, 4, 3, padding=1), (8, 8)), "zero", max_bytes=1000)


def test_a_layer_that_reflects_has_no_zero_padded_matrix() -> None:
    layer = conv(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ConfigError, match="needs padding_mode 'zeros', found 'reflect'"):
        dense_operator(layer, (4, 4), "zero")


def test_the_groups_of_a_dense_operator_are_decomposed_one_by_one() -> None:
    layer = conv(4, 6, 3, padding=1, groups=2)
    expected = dense_values(dense_operator(layer, (5, 4), "zero"))
    # The matrix of one group has a quarter of the elements of the whole.
    found = spectrum(nn.Sequential(layer), (4, 5, 4), operator="zero", max_bytes=60 * 40 * 8)["0"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * expected[0])
