"""Circular convolutions by the DFT against their dense matrices, closed forms, and numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.convolutions import conv, dense_operator, dense_values
from robustlens.errors import ConfigError
from robustlens.spectra import circular_singular_values


def fft_values(layer: nn.Conv2d, size: tuple[int, int]) -> np.ndarray:
    return circular_singular_values(
        layer.weight, size, stride=layer.stride, dilation=layer.dilation, groups=layer.groups
    )


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (conv(3, 4, 3), (6, 6)),
        (conv(4, 2, 3), (5, 7)),
        (conv(2, 3, 1), (4, 5)),
        (conv(2, 3, (3, 2)), (4, 4)),
        (conv(2, 5, 4, stride=2), (6, 8)),
        (conv(2, 3, 3, stride=2), (8, 6)),
        (conv(3, 2, 1, stride=2), (4, 6)),
        (conv(1, 2, 3, stride=(1, 3)), (4, 9)),
        (conv(2, 2, 3, dilation=2), (7, 6)),
        (conv(2, 3, 3, stride=2, dilation=(2, 3)), (6, 8)),
        (conv(4, 6, 3, groups=2), (5, 4)),
        (conv(4, 4, 3, groups=4, stride=2), (6, 4)),
        (conv(2, 3, 5), (3, 2)),  # the kernel wraps around the map
        (conv(2, 2, 3, dilation=4), (4, 4)),  # every tap falls on the same pixel
        (conv(2, 3, 3), (1, 1)),
        (conv(2, 3, 2, stride=2), (2, 2)),
        (conv(2, 3, 3), (1, 6)),
    ],
    ids=str,
)
def test_values_by_dft_are_those_of_the_dense_circulant(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    expected = dense_values(dense_operator(layer, size, "circular"))
    found = fft_values(layer, size)
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * expected[0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    outputs=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_any_convolution_agrees_with_its_dense_circulant(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    outputs: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    seed: int,
) -> None:
    size = (stride[0] * outputs[0], stride[1] * outputs[1])
    assume(math.prod(size) <= 36)
    inputs, outs = channels[0] * groups, channels[1] * groups
    layer = conv(inputs, outs, kernel, seed=seed, stride=stride, dilation=dilation, groups=groups)
    expected = dense_values(dense_operator(layer, size, "circular"))
    np.testing.assert_allclose(fft_values(layer, size), expected, rtol=0, atol=1e-10 * expected[0])


def test_stride_one_agrees_with_the_published_recipe() -> None:
    layer = conv(5, 4, 3)
    weight = layer.weight.detach().numpy()
    transfer = np.fft.fft2(weight, (8, 9)).transpose(2, 3, 0, 1)  # Sedghi, Gupta and Long 2019, in numpy
    expected = np.sort(np.linalg.svd(transfer, compute_uv=False).ravel())[::-1]
    np.testing.assert_allclose(fft_values(layer, (8, 9)), expected, rtol=0, atol=1e-12 * expected[0])


def test_a_bound_on_memory_and_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv(3, 4, 3, stride=2)
    whole = fft_values(layer, (8, 8))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = circular_singular_values(layer.weight, (8, 8), stride=(2, 2), max_bytes=1)
    np.testing.assert_array_equal(found, whole)


def test_workers_leave_the_callers_threads_alone() -> None:
    before = torch.get_num_threads()
    fft_values(conv(3, 4, 3), (8, 8))
    assert torch.get_num_threads() == before


def test_a_stride_that_does_not_divide_the_map_has_no_dft() -> None:
    with pytest.raises(ConfigError, match=r"stride \(2, 2\) on a \(5, 4\) feature map"):
        circular_singular_values(torch.ones(1, 1, 3, 3), (5, 4), stride=(2, 2))


def test_a_circular_mean_filter_has_its_closed_form() -> None:
    side = 6
    line = (1 + 2 * np.cos(2 * np.pi * np.arange(side) / side)) / 3
    expected = np.sort(np.abs(np.outer(line, line)).ravel())[::-1]
    found = circular_singular_values(torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), (side, side))
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_a_shift_is_orthogonal_and_a_subsampled_shift_too() -> None:
    layer = conv(1, 1, 3)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 0, 2] = -2.0
    np.testing.assert_allclose(fft_values(layer, (4, 6)), np.full(24, 2.0), atol=1e-14)
    layer.stride = (2, 3)
    np.testing.assert_allclose(fft_values(layer, (4, 6)), np.full(4, 2.0), atol=1e-14)


def test_a_pointwise_convolution_has_the_values_of_its_matrix_once_for_each_pixel() -> None:
    layer = conv(3, 5, 1)
    values = dense_values(layer.weight.detach()[:, :, 0, 0])
    np.testing.assert_allclose(fft_values(layer, (4, 4)), np.repeat(values, 16), atol=1e-14)
