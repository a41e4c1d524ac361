"""Spectra against matrices: dense ones built from the layer, closed forms, and numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlens import models
from robustlens.errors import ConfigError, ModelError, NumericsError
from robustlens.progress import Event
from robustlens.spectra import circular_singular_values, dense_operator, spectrum, summarize, trace


def conv(*sizes: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(*sizes, dtype=torch.float64, **options)


def dense_values(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.numpy(), compute_uv=False)


def fft_values(layer: nn.Conv2d, size: tuple[int, int]) -> np.ndarray:
    return circular_singular_values(
        layer.weight, size, stride=layer.stride, dilation=layer.dilation, groups=layer.groups
    )


# -- the DFT against the dense matrix -------------------------------------------------------------------


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
    torch.manual_seed(seed)
    layer = conv(inputs, outs, kernel, stride=stride, dilation=dilation, groups=groups)
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


# -- the dense matrix itself ----------------------------------------------------------------------------


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


def test_large_dense_matrices_are_refused_before_they_are_built() -> None:
    with pytest.raises(
        ConfigError,
        match=r"conv 3 -> 4, 3x3, on 8x8 is 256 x 192, 393216 bytes, expected at most max_bytes = 1000",
    ):
        dense_operator(conv(3, 4, 3, padding=1), (8, 8), "zero", max_bytes=1000)


def test_a_layer_that_reflects_has_no_zero_padded_matrix() -> None:
    layer = conv(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ConfigError, match="needs padding_mode 'zeros', found 'reflect'"):
        dense_operator(layer, (4, 4), "zero")


# -- whole networks -------------------------------------------------------------------------------------


def network() -> nn.Sequential:
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
    assert list(found) == ["0", "3", "5"]
    assert [len(values) for values in found.values()] == [2 * 48, 3 * 12, 5]
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
    with pytest.raises(ConfigError, match="found '1', expected some of 0, 3, 5"):
        spectrum(model, (2, 8, 6), layers=["1"])


def test_layers_that_are_never_called_are_left_out() -> None:
    model = network()
    model[2].spare = nn.Linear(2, 2)
    assert list(trace(model, (2, 8, 6))) == ["0", "3", "5"]


class Twice(nn.Module):
    """One convolution at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(F.avg_pool2d(self.shared(x), 2)).flatten(1)


def test_a_layer_at_two_sizes_is_no_single_operator() -> None:
    with pytest.raises(
        ConfigError, match=r"'shared' sees feature maps of \(2, 2\), \(4, 4\), expected one size"
    ):
        spectrum(Twice(), (1, 4, 4))


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
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).bfloat16()
    expected = np.linalg.svd(model[1].weight.detach().double().numpy(), compute_uv=False)
    np.testing.assert_allclose(spectrum(model, (2, 2, 2))["1"], expected, rtol=1e-13)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = network()
    model[3].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="layer '3' has a weight that is NaN"):
        spectrum(model, (2, 8, 6))


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 'same', expected 'circular' or 'zero'"):
        spectrum(network(), (2, 8, 6), operator="same")


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


def test_the_groups_of_a_dense_operator_are_decomposed_one_by_one() -> None:
    layer = conv(4, 6, 3, padding=1, groups=2)
    expected = dense_values(dense_operator(layer, (5, 4), "zero"))
    # The matrix of one group has a quarter of the elements of the whole.
    found = spectrum(nn.Sequential(layer), (4, 5, 4), operator="zero", max_bytes=60 * 40 * 8)["0"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * expected[0])


def test_progress_tells_each_layer() -> None:
    heard: list[Event] = []
    spectrum(network(), (2, 8, 6), progress=heard.append)
    assert [(event.done, event.total, event.note) for event in heard] == [
        (0, 3, "0"),
        (1, 3, "3"),
        (2, 3, "5"),
        (3, 3, ""),
    ]


# -- faster, and less accurate --------------------------------------------------------------------------


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
    exact, gram = (
        spectrum(model, (3, 2, 2), **how)["1"] for how in ({}, {"dtype": "float32", "method": "gram"})
    )
    assert abs(exact[-1] / values[-1] - 1) < 1e-8
    assert abs(gram[-1] / values[-1] - 1) > 0.99


@pytest.mark.parametrize("operator", ["circular", "zero"])
def test_faster_ways_agree_on_convolutions(operator: str) -> None:
    model = network()
    exact = spectrum(model, (2, 8, 6), operator=operator)
    for how, tolerance in (({"dtype": "float32"}, 1e-6), ({"method": "gram"}, 1e-7)):
        found = spectrum(model, (2, 8, 6), operator=operator, **how)
        for name, values in exact.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * values[0])
            assert not np.array_equal(found[name], values)


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 'float16', expected 'float64' or 'float32'"):
        spectrum(network(), (2, 8, 6), dtype="float16")
    with pytest.raises(ConfigError, match="found 'qr', expected 'svd' or 'gram'"):
        spectrum(network(), (2, 8, 6), method="qr")


# -- summaries ------------------------------------------------------------------------------------------


def test_a_summary_is_what_it_says() -> None:
    entropy = math.log(3) - 2 / 3 * math.log(2)
    expected = {
        "std": 1.0,
        "mean": 3.0,
        "std_over_mean": 1 / 3,
        "max": 4.0,
        "min": 2.0,
        "count": 2,
        "stable_rank": 1.25,
        "condition": 2.0,
        "entropy": entropy,
        "effective_rank": math.exp(entropy),
    }
    assert summarize(np.array([4.0, 2.0])) == pytest.approx(expected, rel=1e-15)


def test_equal_values_have_full_rank() -> None:
    found = summarize(np.full(7, 0.3))
    assert found["stable_rank"] == pytest.approx(7)
    assert found["effective_rank"] == pytest.approx(7)
    assert found["condition"] == 1.0


def test_a_value_of_zero_has_no_condition_number_and_no_share_of_the_entropy() -> None:
    found = summarize(np.array([2.0, 2.0, 0.0]))
    assert found["condition"] is None
    assert found["effective_rank"] == pytest.approx(2)


def test_a_summary_of_zeros_is_zero_and_of_nothing_is_refused() -> None:
    found = summarize(np.zeros(3))
    assert found.pop("condition") is None
    assert found.pop("count") == 3
    assert set(found.values()) == {0.0}
    with pytest.raises(ConfigError, match="found no singular values"):
        summarize(np.zeros(0))
