"""Densities of singular values against the dense matrix, forced through the path of large layers."""

import functools
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
from robustlens.errors import ConfigError, NumericsError
from robustlens.explain import density, spectral_norms
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.density import SHARES, density_of
from robustlens.spectra.layers import Layer
from robustlens.spectra.summary import summarize

MEMORY = 2**27
layers = pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=str)


def _summary(values: np.ndarray) -> dict[str, Any]:
    return dict(summarize(values))


def _power(exponent: int, values: np.ndarray) -> np.ndarray:
    return values**exponent


@pytest.mark.parametrize("operator", ["zero", "circular"])
@layers
def test_moments_and_extremes_are_those_of_the_dense_matrix(
    layer: nn.Conv2d, size: tuple[int, int], operator: str
) -> None:
    values = dense_values(dense_operator(layer, size, operator))
    found = density_of(Convolution.of(Layer(layer, size), operator), max_bytes=MEMORY, steps=20)
    summary, exact = found.summary(), _summary(values)
    assert found.count == len(values)
    assert found.square == pytest.approx(float(np.mean(values**2)), rel=1e-10)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
    for name in ("max", "stable_rank"):
        assert summary[name] == pytest.approx(exact[name], rel=1e-6)
    assert summary["min"] == pytest.approx(exact["min"], rel=1e-6, abs=1e-10 * values[0])
    assert exact["min"] <= summary["min_at_most"] + 1e-12 <= values[0] + 1e-9
    for power in (2, 4, 6):  # a mean of s^2k is without bias: only the draws move it
        mean, error = found.mean(functools.partial(_power, power))
        spread = float(np.std(values**power)) * (2 / found.count / len(found.nodes)) ** 0.5
        assert abs(mean - np.mean(values**power)) <= max(error, 5 * spread)


def test_the_errors_contain_the_truth() -> None:
    """Of 95 % intervals over 17 layers, 3 seeds and 5 numbers: at least 90 %."""
    held: list[bool] = []
    for layer, size in CONVOLUTIONS:
        exact = _summary(zero_padded_values(layer, size))
        for seed in range(3):
            found = density_of(zero_padded(layer, size), max_bytes=MEMORY, steps=16, seed=seed).summary()
            errors = found["error"].items()
            held += [abs(found[name] - exact[name]) <= error + 1e-9 for name, error in errors]
    assert np.mean(held) >= 0.9


def test_a_larger_layer_has_narrow_errors_and_the_quantiles_of_its_values() -> None:
    layer, size = conv(6, 6, 3, padding=1), (12, 12)
    values = zero_padded_values(layer, size)
    found = density_of(zero_padded(layer, size), max_bytes=MEMORY)
    summary, exact = found.summary(), _summary(values)
    assert summary["method"] == "density, 4 draws of 64 Lanczos steps"
    for name in ("mean", "std", "std_over_mean", "entropy"):
        assert abs(summary[name] - exact[name]) <= 2 * summary["error"][name], name
        assert summary["error"][name] <= 0.25 * exact[name], name
    quantiles = np.interp(SHARES, (np.arange(len(values)) + 0.5) / len(values), values)
    assert found.quantiles().shape == (1000,)
    assert (np.diff(found.quantiles()) <= 0).all()
    assert np.abs(found.quantiles() - quantiles).max() <= 0.1 * values[0]


@pytest.mark.parametrize("stride", [1, 2])
def test_an_end_of_lanczos_before_its_steps_draws_no_quantile_below_the_smallest_value(stride: int) -> None:
    """A 1x1 kernel has as many different values as channels, and Lanczos ends when it has them."""
    layer = conv(3, 16, 1, stride=stride)
    values = dense_values(layer.weight.flatten(1))
    estimate = density_of(zero_padded(layer, (15, 16)), max_bytes=MEMORY)
    quantiles = estimate.quantiles()
    assert (estimate.weights == 0).any()
    assert estimate.smallest == pytest.approx(values[-1] if stride == 1 else 0.0, abs=1e-12)
    assert quantiles.min() >= estimate.smallest
    assert quantiles.max() <= estimate.largest
    if stride == 1:
        assert (np.abs(quantiles[:, None] - values).min(1) < 0.05).mean() > 0.9


def test_memory_bounds_the_steps_and_the_smallest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["robustlens.spectra.extreme"], "_SMALL", 0)
    convolution = zero_padded(conv(3, 3, 3, padding=1), (8, 8))
    found = density_of(convolution, max_bytes=8 * 192 * 12)
    assert found.nodes.shape == (4, 12)
    assert found.smallest is None
    assert found.summary()["min"] is None
    assert found.summary()["condition"] is None
    with pytest.raises(ConfigError, match="memory for 3 Lanczos vectors of 192 values"):
        density_of(convolution, max_bytes=8 * 192 * 3)
    with pytest.raises(ConfigError, match="found 1 draws"):
        density_of(convolution, max_bytes=MEMORY, draws=1)


def test_draws_are_those_of_the_seed() -> None:
    convolution = zero_padded(conv(3, 3, 3, padding=1), (8, 8))
    one, same, other = (density_of(convolution, max_bytes=MEMORY, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.nodes, same.nodes)
    assert not np.array_equal(one.nodes, other.nodes)


def test_a_layer_of_zeros_and_one_that_is_not_finite() -> None:
    layer = conv(2, 2, 3, padding=1)
    nn.init.zeros_(layer.weight)
    summary = density_of(zero_padded(layer, (6, 6)), max_bytes=MEMORY).summary()
    assert [summary[name] for name in ("std", "mean", "std_over_mean", "max", "entropy")] == [0.0] * 5
    nn.init.constant_(layer.weight, torch.inf)
    with pytest.raises(NumericsError, match="NaN or infinite"):
        density_of(Convolution.of(Layer(layer, (6, 6)), "zero"), max_bytes=MEMORY)


def test_every_convolution_of_a_network_has_one() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 2))
    found = density(model, (2, 4, 4))
    assert list(found) == ["0"]
    assert found["0"].count == 32
    wrapped = density(model, (2, 4, 4), operator="circular")["0"]
    assert wrapped.largest == pytest.approx(spectral_norms(model, (2, 4, 4))["0"], rel=1e-10)
    assert abs(wrapped.largest - found["0"].largest) > 1e-3
    with pytest.raises(ConfigError, match="found 'kernel', expected 'circular' or 'zero'"):
        density(model, (2, 4, 4), operator="kernel")
