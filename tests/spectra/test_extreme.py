"""The largest and smallest singular values without the dense matrix, against the dense matrix."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.convolutions import (
    CONVOLUTIONS,
    conv,
    dense_operator,
    dense_values,
    zero_padded,
    zero_padded_values,
)
from robustlens import models
from robustlens.errors import ConfigError, NumericsError
from robustlens.spectra import density, extremes, spectral_norms, spectrum
from robustlens.spectra.banded import factorised
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.extreme import largest_values, smallest_values
from robustlens.spectra.layers import Layer


@pytest.fixture(autouse=True)
def _no_layer_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["robustlens.spectra.extreme"], "_SMALL", 0)


def line(side: int) -> np.ndarray:
    """Eigenvalues of the zero-padded mean of three pixels, a tridiagonal Toeplitz matrix."""
    return (1 + 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))) / 3


layers = pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=str)


@pytest.mark.parametrize("operator", ["zero", "circular"])
@layers
def test_both_ends_are_those_of_the_dense_matrix(
    layer: nn.Conv2d, size: tuple[int, int], operator: str
) -> None:
    expected = dense_values(dense_operator(layer, size, operator))
    convolution = Convolution.of(Layer(layer, size), operator)
    tolerance, count = 1e-13 * expected[0], 1 if operator == "circular" else 3
    largest, smallest = largest_values(convolution, count), smallest_values(convolution, count)
    np.testing.assert_allclose(largest, expected[:count], rtol=1e-8, atol=tolerance)
    np.testing.assert_allclose(smallest, expected[-count:], rtol=1e-8, atol=tolerance)


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
    expected = zero_padded_values(layer, (6, 6))
    assert expected[-1] < 1e-8 * expected[0]
    found = smallest_values(zero_padded(layer, (6, 6)), 2)
    np.testing.assert_allclose(found, expected[-2:], rtol=1e-4)


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


@pytest.mark.parametrize("padding", ["same", 1], ids=["no weight", "no weight that meets the map"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_that_maps_all_to_zero_has_values_of_zero(padding: Any, groups: int) -> None:
    layer = nn.Conv2d(4, 6, 3, padding=padding, groups=groups)
    nn.init.zeros_(layer.weight)
    size = (4, 5)
    if padding == 1:  # of a map of one row, all of whose neighbours are borders
        layer.weight.data[:, :, 0] = 1.0
        size = (1, 20)
    model = nn.Sequential(layer)
    largest, smallest = extremes(model, (4, *size), operator="zero", count=2)["0"]
    assert [*largest, *smallest] == [0.0] * 4
    assert spectral_norms(model, (4, *size), operator="zero") == {"0": 0.0}
    found = density(model, (4, *size))["0"].summary()
    assert [found[name] for name in ("max", "min", "mean", "std")] == [0.0] * 4


def test_one_group_of_zeros_leaves_the_values_of_the_other() -> None:
    layer = conv(4, 6, 3, padding=1, groups=2)
    layer.weight.data[:3] = 0.0
    expected = zero_padded_values(layer, (5, 5))
    convolution = zero_padded(layer, (5, 5))
    assert largest_values(convolution)[0] == pytest.approx(expected[0], rel=1e-10)
    assert smallest_values(convolution)[-1] == 0.0


def test_an_untrained_network_without_batch_norm_has_norms() -> None:
    """The last convolution of its blocks starts at zero (Fixup)."""
    model = models.get("resnet8", num_classes=10, in_channels=3, batch_norm=False)
    norms = spectral_norms(model, (3, 8, 8), operator="zero")
    assert {name for name, norm in norms.items() if norm == 0.0} == {f"layer{i}.0.conv2" for i in (1, 2, 3)}


@pytest.mark.parametrize("scale", [1e200, 1e-155])
def test_products_beyond_float64_are_an_error_of_one_line(scale: float) -> None:
    layer = conv(2, 2, 3, padding=1)
    layer.weight.data *= scale
    with pytest.raises(NumericsError, match=r"spectrum: .* products .*; check the weights$"):
        smallest_values(zero_padded(layer, (12, 12)))


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


def test_a_stride_that_does_not_divide_its_map_needs_no_dense_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten())
    whole = spectrum(model, (3, 7, 8))["0"]
    pairs = extremes(model, (3, 7, 8), count=4)["0"]
    np.testing.assert_allclose(pairs, [whole[:4], whole[-4:]], rtol=1e-9)
    for solver in ("svdvals", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, solver, None)
    largest, smallest = extremes(model, (3, 7, 8))["0"]
    assert [largest[0], smallest[0]] == pytest.approx([whole[0], whole[-1]], rel=1e-9)
    assert spectral_norms(model, (3, 7, 8))["0"] == pytest.approx(whole[0], rel=1e-10)
    with pytest.raises(ConfigError, match=r"layer '0': spectrum: a 64 x 168 matrix has 86016 bytes, .* 99"):
        extremes(model, (3, 7, 8), max_bytes=99)


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
        expected = zero_padded_values(layer, size)
        try:
            values = smallest_values(zero_padded(layer, size), 1)
        except NumericsError:
            continue
        found += 1
        np.testing.assert_allclose(values, expected[-1:], rtol=1e-6, atol=1e-10 * expected[0])
    assert found >= 10
