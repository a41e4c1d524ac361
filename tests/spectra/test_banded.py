"""Triangular factors of zero-padded convolutions against their dense matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.convolutions import conv, zero_padded, zero_padded_values
from robustlens.errors import ConfigError
from robustlens.spectra.banded import factorised


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_the_triangle_has_the_values_of_any_matrix(
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    seed: int,
) -> None:
    assume(min(size) + 2 * padding > dilation * (kernel - 1))
    layer = conv(*channels, kernel, seed=seed, stride=stride, padding=padding, dilation=dilation)
    triangle = factorised(zero_padded(layer, size), max_bytes=2**30)
    expected = zero_padded_values(layer, size)
    found = torch.linalg.svdvals(assembled(triangle.rows, triangle.width)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * expected[0])


def assembled(rows: Any, width: int) -> Tensor:
    """A triangle as one matrix."""
    whole = torch.zeros(len(rows) * width, len(rows) * width, dtype=torch.float64)
    for place, row in enumerate(rows):
        whole[place * width : (place + 1) * width, place * width : place * width + row.shape[1]] = row
    return whole


def test_triangular_systems_are_solved() -> None:
    triangle = factorised(zero_padded(conv(2, 3, 3, padding=1), (6, 5)), max_bytes=2**20)
    whole = assembled(triangle.rows, triangle.width)
    b = torch.randn(len(whole), dtype=torch.float64)
    torch.testing.assert_close(whole @ triangle.solve(b), b)
    torch.testing.assert_close(whole.T @ triangle.solve_transposed(b), b)


def test_a_factor_that_is_too_large_is_refused_before_it_is_built() -> None:
    layer = conv(3, 4, 3, padding=1)
    needed = 8 * 8 * 3 * 24**2  # float64, rows of blocks, blocks in each, elements in each
    with pytest.raises(ConfigError, match=f"a 256 x 192 matrix has {needed} bytes, expected at most"):
        factorised(zero_padded(layer, (8, 8)), max_bytes=needed - 1)
    triangle = factorised(zero_padded(layer, (8, 8)), max_bytes=needed)
    assert sum(row.numel() for row in triangle.rows) * 8 <= needed
