"""Spectra of whole networks against matrices built from their layers, and how accurate faster ways are."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.convolutions import dense_operator, dense_values
from robustlens.errors import ConfigError, ModelError, NumericsError
from robustlens.progress import Event
from robustlens.spectra import spectrum


def network() -> Any:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 4, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(3 * 4 * 3, 5),
    )


def test_every_layer_is_measured_at_the_size_of_the_map_that_it_reads() -> None:
    model = network()
    found = spectrum(model, (2, 8, 6))
    assert list(found) == ["0", "1", "3", "5"]
    assert [len(values) for values in found.values()] == [2 * 48, 4, 3 * 12, 5]
    assert all((np.diff(values) <= 0).all() for values in found.values())
    for name, size in {"0": (8, 6), "3": (8, 6)}.items():
        expected = dense_values(dense_operator(model.get_submodule(name), size, "circular"))
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-10 * expected[0])
    expected = np.linalg.svd(model[5].weight.detach().double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found["5"], expected, rtol=1e-13)


def test_zero_and_circular_borders_are_different_operators() -> None:
    model = network()
    circular, zero = spectrum(model, (2, 8, 6)), spectrum(model, (2, 8, 6), operator="zero")
    assert abs(circular["0"][0] - zero["0"][0]) > 1e-3
    np.testing.assert_array_equal(circular["5"], zero["5"])


def test_a_stride_that_does_not_divide_goes_through_the_dense_matrix_while_that_is_small() -> None:
    layer = nn.Conv2d(1, 2, 3, stride=2, padding=1)
    model = nn.Sequential(layer, nn.Flatten())
    expected = dense_values(dense_operator(layer, (5, 7), "circular"))
    np.testing.assert_allclose(spectrum(model, (1, 5, 7))["0"], expected, atol=1e-12)
    assert len(expected) == 2 * 3 * 4
    with pytest.raises(ConfigError, match=r"layer '0': .*, whose stride does not divide its .* max_bytes"):
        spectrum(model, (1, 5, 7), max_bytes=100)


def test_layers_can_be_chosen_and_unknown_ones_are_refused() -> None:
    model = network()
    assert list(spectrum(model, (2, 8, 6), layers=["5", "0"])) == ["0", "5"]
    with pytest.raises(ConfigError, match="found '2', expected some of 0, 1, 3, 5"):
        spectrum(model, (2, 8, 6), layers=["2"])


def test_the_model_is_left_as_it_was_even_where_it_fails() -> None:
    model = network().train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    spectrum(model, (2, 8, 6))
    with pytest.raises(ModelError, match=r"fails on images of shape \(1, 2, 9, 9\)"):
        spectrum(model, (2, 9, 9))
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_half_precision_weights_are_measured_in_float64() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).bfloat16()
    expected = np.linalg.svd(model[1].weight.detach().double().numpy(), compute_uv=False)
    np.testing.assert_allclose(spectrum(model, (2, 2, 2))["1"], expected, rtol=1e-13)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = network()
    model[3].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="layer '3' has a weight that is NaN"):
        spectrum(model, (2, 8, 6))


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 'same', expected 'circular', 'zero' or 'kernel'"):
        spectrum(network(), (2, 8, 6), operator="same")


def test_progress_tells_each_layer() -> None:
    heard: list[Event] = []
    spectrum(network(), (2, 8, 6), progress=heard.append)
    assert [(event.done, event.total, event.note) for event in heard] == [
        (0, 4, "0"),
        (1, 4, "1"),
        (2, 4, "3"),
        (3, 4, "5"),
        (4, 4, ""),
    ]


def graded(smallest: float) -> tuple[nn.Sequential, np.ndarray]:
    """A linear layer with singular values from 1 down to `smallest`, in even steps of their logarithm."""
    values = np.logspace(0, np.log10(smallest), 12)
    left, right = (torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q for _ in range(2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, dtype=torch.float64))
    model[1].weight.data = left @ torch.from_numpy(values)[:, None].mul(right)
    return model, values


@pytest.mark.parametrize(
    ("dtype", "method", "absolute"),
    [
        ("float64", "svd", 1e-15),
        ("float32", "svd", 1e-6),
        ("float64", "gram", 1e-7),
        ("float32", "gram", 2e-3),
    ],
)
def test_faster_ways_are_as_accurate_as_they_say(dtype: str, method: str, absolute: float) -> None:
    model, values = graded(1e-6)
    found = spectrum(model, (3, 2, 2), dtype=dtype, method=method)["1"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, values, rtol=0, atol=4 * absolute)
    np.testing.assert_allclose(found[0], 1.0, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_a_gram_matrix_in_float32_loses_the_small_end_altogether() -> None:
    model, values = graded(1e-6)
    ways: list[dict[str, Any]] = [{}, {"dtype": "float32", "method": "gram"}]
    exact, gram = (spectrum(model, (3, 2, 2), **how)["1"] for how in ways)
    assert abs(exact[-1] / values[-1] - 1) < 1e-8
    assert abs(gram[-1] / values[-1] - 1) > 0.99


@pytest.mark.parametrize("operator", ["circular", "zero"])
def test_faster_ways_agree_on_convolutions(operator: str) -> None:
    model = network()
    exact = spectrum(model, (2, 8, 6), operator=operator)
    ways: list[tuple[dict[str, Any], float]] = [({"dtype": "float32"}, 1e-6), ({"method": "gram"}, 1e-7)]
    for how, tolerance in ways:
        found = spectrum(model, (2, 8, 6), operator=operator, **how)
        for name, values in exact.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * values[0])
            assert name == "1" or not np.array_equal(found[name], values)  # a diagonal needs no way


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 'float16', expected 'float64' or 'float32'"):
        spectrum(network(), (2, 8, 6), dtype="float16")
    with pytest.raises(ConfigError, match="found 'qr', expected 'svd' or 'gram'"):
        spectrum(network(), (2, 8, 6), method="qr")
