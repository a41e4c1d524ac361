"""The largest and smallest singular values without the dense matrix, against the dense matrix."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlens.errors import ConfigError, NumericsError
from robustlens.spectra import dense_operator, extremes, spectral_norms, spectrum
from robustlens.spectra.banded import factorised
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.extreme import largest_values, smallest_values
from robustlens.spectra.layers import Layer


@pytest.fixture(autouse=True)
def _no_layer_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["robustlens.spectra.extreme"], "_SMALL", 0)


def conv(*sizes: int, **options: Any) -> nn.Conv2d:
    # Layers are made when tests are collected: their weights are their own, whatever came before.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(*sizes, dtype=torch.float64, **options)


def zero_padded(layer: nn.Conv2d, size: tuple[int, int]) -> Convolution:
    return Convolution.of(Layer(layer, size), "zero")


def dense_values(layer: nn.Conv2d, size: tuple[int, int]) -> np.ndarray:
    return np.linalg.svd(dense_operator(layer, size, "zero").numpy(), compute_uv=False)


def line(side: int) -> np.ndarray:
    """Eigenvalues of the zero-padded mean of three pixels, a tridiagonal Toeplitz matrix."""
    return (1 + 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))) / 3


CONVOLUTIONS = [
    (conv(3, 4, 3, padding=1), (7, 6)),
    (conv(4, 3, 3, padding=1), (7, 6)),
    (conv(3, 3, 3, padding=1), (6, 7)),
    (conv(2, 5, 3, padding=1, stride=2), (9, 8)),
    (conv(2, 9, 3, padding=1, stride=2), (9, 8)),
    (conv(3, 2, 4, padding=1, stride=2), (8, 8)),
    (conv(3, 3, 3, padding=2, dilation=2), (8, 8)),
    (conv(2, 4, 3, padding=1, stride=(1, 2), dilation=(2, 1)), (8, 7)),
    (conv(4, 6, 3, padding=1, groups=2), (6, 6)),
    (conv(4, 4, 3, padding=1, groups=4), (6, 6)),
    (conv(3, 3, 1), (5, 5)),
    (conv(3, 4, 1, stride=2), (7, 6)),
    (conv(3, 3, 3), (8, 8)),
    (conv(5, 4, 3, padding=2), (6, 6)),  # more rows than columns only by its borders
    (conv(3, 20, 3, stride=3), (8, 8)),
    (conv(3, 3, (4, 2), padding="same"), (6, 6)),
    (conv(2, 2, 5, padding=2), (3, 9)),
]
layers = pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=str)


@layers
def test_both_ends_are_those_of_the_dense_matrix(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    expected = dense_values(layer, size)
    convolution = zero_padded(layer, size)
    tolerance = 1e-13 * expected[0]
    np.testing.assert_allclose(largest_values(convolution, 3), expected[:3], rtol=1e-8, atol=tolerance)
    np.testing.assert_allclose(smallest_values(convolution, 3), expected[-3:], rtol=1e-8, atol=tolerance)


@layers
def test_the_transposed_convolution_is_the_transposed_matrix(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    convolution = zero_padded(layer, size)
    outputs = torch.randn(2, layer.out_channels, *convolution.out_size, dtype=torch.float64)
    expected = outputs.flatten(1) @ dense_operator(layer, size, "zero")
    torch.testing.assert_close(convolution.adjoint(outputs).flatten(1), expected)


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
    torch.manual_seed(seed)
    layer = conv(*channels, kernel, stride=stride, padding=padding, dilation=dilation)
    triangle = factorised(zero_padded(layer, size), max_bytes=2**30)
    expected = dense_values(layer, size)
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


def test_a_mean_filter_on_a_map_too_large_for_its_matrix_has_its_closed_form() -> None:
    layer = conv(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 1 / 9)
    side = 45  # the dense matrix would have 33 MB
    expected = np.sort(np.abs(np.outer(line(side), line(side))).ravel())[::-1]
    convolution = zero_padded(layer, (side, side))
    np.testing.assert_allclose(largest_values(convolution, 3), expected[:3], rtol=1e-10)
    np.testing.assert_allclose(smallest_values(convolution, 2), expected[-2:], rtol=1e-8, atol=1e-15)


def test_a_singular_layer_has_a_smallest_value_of_zero_up_to_rounding() -> None:
    layer = conv(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 1 / 9)
    assert abs(line(5)).min() < 1e-15  # 1 + 2 cos(2 pi / 3)
    assert smallest_values(zero_padded(layer, (5, 5)), 1)[0] < 1e-14


def test_nearly_singular_layers_are_as_right_as_by_a_dense_svd() -> None:
    layer = conv(4, 4, 3, padding=1, bias=False)
    layer.weight.data[3] = layer.weight.data[2] + 1e-9 * torch.randn_like(layer.weight.data[3])
    expected = dense_values(layer, (6, 6))
    assert expected[-1] < 1e-8 * expected[0]
    found = smallest_values(zero_padded(layer, (6, 6)), 2)
    np.testing.assert_allclose(found, expected[-2:], rtol=1e-4)


def test_a_factor_that_is_too_large_is_refused_before_it_is_built() -> None:
    layer = conv(3, 4, 3, padding=1)
    needed = 8 * 8 * 3 * 24**2  # float64, rows of blocks, blocks in each, elements in each
    with pytest.raises(ConfigError, match=f"a 256 x 192 matrix has {needed} bytes, expected at most"):
        smallest_values(zero_padded(layer, (8, 8)), max_bytes=needed - 1)
    triangle = factorised(zero_padded(layer, (8, 8)), max_bytes=needed)
    assert sum(row.numel() for row in triangle.rows) * 8 <= needed


def test_what_has_not_converged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["robustlens.spectra.extreme"]
    convolution = zero_padded(conv(2, 2, 3, padding=1), (8, 8))

    def perturbed(*arguments: Any, **options: Any) -> Any:
        triangle = factorised(*arguments, **options)
        triangle.rows[0].mul_(1.1)
        triangle.rows[1].mul_(0.8)
        return triangle

    monkeypatch.setattr(module, "factorised", perturbed)
    with pytest.raises(NumericsError, match="expected the same; take the dense matrix"):
        smallest_values(convolution)
    solver = module.eigsh
    monkeypatch.setattr(module, "eigsh", lambda *a, **o: solver(*a, **{**o, "ncv": 3, "maxiter": 1}))
    with pytest.raises(NumericsError, match="Lanczos found 0 of 1 extreme singular values"):
        largest_values(convolution)


# -- whole networks -------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 4, stride=2, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 3, 5),
    )


@pytest.mark.parametrize("operator", ["circular", "zero"])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_extremes_are_the_ends_of_the_spectrum(operator: str, count: int) -> None:
    model = network()
    whole = spectrum(model, (2, 8, 6), operator=operator)
    found = extremes(model, (2, 8, 6), operator=operator, count=count)
    norms = spectral_norms(model, (2, 8, 6), operator=operator)
    assert list(found) == list(whole) == list(norms)
    for name, values in whole.items():
        largest, smallest = found[name]
        np.testing.assert_allclose(largest, values[:count], rtol=1e-10)
        np.testing.assert_allclose(smallest, values[-count:], rtol=1e-9, atol=1e-13)
        assert norms[name] == pytest.approx(values[0], rel=1e-12)


def test_errors_name_the_layer() -> None:
    with pytest.raises(ConfigError, match=r"layer '0': spectrum: the triangular factor .* `spectral_norms`"):
        extremes(network(), (2, 8, 6), operator="zero", max_bytes=10)
    with pytest.raises(ConfigError, match="found 0, expected at least 1"):
        extremes(network(), (2, 8, 6), count=0)
    assert math.isfinite(spectral_norms(network(), (2, 8, 6), operator="zero")["0"])


def test_a_layer_that_is_singular_to_rounding_has_0_or_an_error_but_no_wrong_value() -> None:
    """Twelve draws of a layer whose borders make it nearly or wholly singular."""
    size, found = (6, 6), 0
    for seed in range(12):
        torch.manual_seed(seed)
        layer = nn.Conv2d(3, 3, (4, 2), padding="same", dtype=torch.float64)
        expected = dense_values(layer, size)
        try:
            values = smallest_values(zero_padded(layer, size), 1)
        except NumericsError:
            continue
        found += 1
        np.testing.assert_allclose(values, expected[-1:], rtol=1e-6, atol=1e-10 * expected[0])
    assert found >= 10
