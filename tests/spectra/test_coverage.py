"""Every kind of layer: its exact operator, or its name among those that no spectrum covers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from helpers.convolutions import dense_operator, dense_values
from helpers.layer_kinds import COVERED, UNCOVERED, around
from helpers.small_models import Snapshot
from robustlens.errors import ConfigError
from robustlens.spectra import extremes, spectral_norms, spectrum, trace, uncovered

Shape = tuple[int, ...]


def double(module: nn.Module) -> nn.Module:
    return module.double().eval()


def jacobian_values(function: Callable[[Tensor], Tensor], shape: Shape) -> np.ndarray:
    """Singular values of a module, bias aside, by its Jacobian."""
    x = torch.randn(1, *shape, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(function, x)
    assert isinstance(matrix, Tensor)
    return dense_values(matrix.reshape(-1, x.numel()))


CONVOLUTIONS: list[tuple[nn.Module, Shape]] = [
    (nn.Conv1d(2, 3, 3, padding=1), (2, 8)),
    (nn.Conv1d(4, 6, 4, stride=2, padding=1, groups=2), (4, 9)),
    (nn.Conv1d(3, 2, 3, padding="same", dilation=2), (3, 8)),
    (nn.Conv3d(2, 3, 3, padding=1), (2, 3, 4, 5)),
    (nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2), (2, 3, 5, 4)),
    (nn.Conv3d(1, 2, 2, dilation=(1, 2, 1)), (1, 4, 4, 3)),
    (nn.ConvTranspose1d(3, 2, 4, stride=2, padding=1), (3, 5)),
    (nn.ConvTranspose1d(2, 4, 3, stride=3, output_padding=2, groups=2), (2, 4)),
    (nn.ConvTranspose2d(2, 3, 3, padding=1), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1), (4, 3, 4)),
    (nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 2), groups=2, dilation=(2, 1)), (4, 4, 3)),
    (nn.ConvTranspose2d(2, 2, 2, dilation=3, output_padding=2), (2, 3, 3)),  # beyond one stride
    (nn.ConvTranspose2d(2, 1, 3, stride=2, padding=0), (2, 3, 2)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 3, 2)),
    (nn.ConvTranspose3d(2, 3, 3, padding=1, stride=(1, 2, 1), output_padding=(0, 1, 0)), (2, 2, 2, 3)),
]
kinds = pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=str)


@kinds
def test_the_layer_as_it_is_has_the_singular_values_of_its_jacobian(module: nn.Module, shape: Shape) -> None:
    model = double(nn.Sequential(module, nn.Flatten()))
    expected = jacobian_values(model, shape)
    np.testing.assert_allclose(spectrum(model, shape, operator="zero")["0"], expected, rtol=0, atol=1e-12)
    matrix = dense_operator(module, shape[1:], "zero")  # type: ignore[arg-type]
    x = torch.randn(2, *shape, dtype=torch.float64)
    bias = module.bias.detach().view(-1, *[1] * (len(shape) - 1))  # type: ignore[operator]
    torch.testing.assert_close((x.flatten(1) @ matrix.T), (module(x) - bias).flatten(1))


@kinds
def test_circular_values_are_those_of_the_dense_circulant(module: nn.Module, shape: Shape) -> None:
    model = double(nn.Sequential(module, nn.Flatten()))
    expected = dense_values(dense_operator(module, shape[1:], "circular"))  # type: ignore[arg-type]
    found = spectrum(model, shape)["0"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@kinds
def test_both_ends_without_the_matrix(
    module: nn.Module, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustlens.spectra.extreme._SMALL", 0)
    model = double(nn.Sequential(module, nn.Flatten()))
    expected = spectrum(model, shape, operator="zero")["0"]
    largest, smallest = extremes(model, shape, operator="zero", count=2)["0"]
    np.testing.assert_allclose(largest, expected[:2], rtol=1e-9)
    np.testing.assert_allclose(smallest, expected[-2:], rtol=1e-7, atol=1e-12)
    assert spectral_norms(model, shape, operator="zero")["0"] == pytest.approx(expected[0], rel=1e-9)


def test_a_transposed_convolution_in_closed_form() -> None:
    """Stride and kernel 2: every pixel becomes a block of its own, so all values are the kernel's norm."""
    module = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False)
    for operator in ("circular", "zero"):
        values = spectrum(nn.Sequential(module, nn.Flatten()), (1, 3, 4), operator=operator)["0"]
        np.testing.assert_allclose(values, np.full(12, float(module.weight.detach().norm())), rtol=1e-6)


class Asked(nn.Module):
    """A transposed convolution that is asked for a larger map at its call."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x, output_size=(6, 6)).flatten(1)


def test_the_map_that_a_transposed_convolution_was_asked_for_counts() -> None:
    model = double(Asked())
    expected = jacobian_values(model, (2, 3, 3))
    np.testing.assert_allclose(
        spectrum(model, (2, 3, 3), operator="zero")["up"], expected, rtol=0, atol=1e-12
    )


def test_an_operator_that_does_not_exist_is_refused_by_layer() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, padding_mode="replicate"), nn.Flatten())
    with pytest.raises(
        ConfigError, match=r"layer '0': .*'zero' needs padding_mode 'zeros', found 'replicate'"
    ):
        spectrum(model, (1, 5), operator="zero")
    assert len(spectrum(model, (1, 5))["0"]) == 5


class Attending(nn.Module):
    """Attention between a map and itself, or another width of keys and values."""

    def __init__(self, keys: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=keys, vdim=keys, batch_first=True)
        self.keys = keys

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        others = tokens if self.keys is None else F.pad(tokens, (0, self.keys - 4))
        return self.attention(tokens, others, others, need_weights=False)[0].flatten(1)


@pytest.mark.parametrize("keys", [None, 6])
def test_attention_has_four_matrices(keys: int | None) -> None:
    model = Attending(keys)
    attention = model.attention
    found = spectrum(model, (4, 2, 2))
    assert list(found) == [f"attention.{part}" for part in ("q", "k", "v", "out_proj")]
    own = (
        attention.in_proj_weight.chunk(3)
        if keys is None
        else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    )
    for name, matrix in zip(found, [*own, attention.out_proj.weight], strict=True):
        np.testing.assert_allclose(found[name], dense_values(matrix.double()), rtol=1e-12)
    assert str(trace(model, (4, 2, 2))["attention.k"]) == f"linear {keys or 4} -> 4"
    assert not uncovered(model, (4, 2, 2))


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d, (3, 5)), (nn.BatchNorm2d, (3, 2, 2)), (nn.BatchNorm3d, (3, 2, 2, 2))]
)
def test_batch_norm_is_a_diagonal(norm: Any, shape: Shape) -> None:
    module = norm(3)
    module.weight.data = torch.tensor([2.0, -3.0, 0.5])
    module.running_var = torch.tensor([0.25, 4.0, 1.0])
    model = double(nn.Sequential(module, nn.Flatten()))
    found = spectrum(model, shape)["0"]
    np.testing.assert_allclose(found, [4.0, 1.5, 0.5], rtol=1e-4)
    np.testing.assert_allclose(np.unique(jacobian_values(model, shape).round(9)), np.unique(found.round(9)))
    assert str(trace(model, shape)["0"]) == "scale of 3 channels"


# -- every kind ------------------------------------------------------------------------------------


def scaled(module: nn.Module, buffers: bool = False) -> None:
    for tensor in [*module.parameters(), *(module.buffers() if buffers else ())]:
        tensor.data = tensor.data * 1e-6 if tensor.is_floating_point() else tensor.data


@pytest.mark.parametrize("kind", COVERED)
def test_small_weights_of_a_covered_kind_are_seen_in_the_values(kind: str) -> None:
    model = around(COVERED[kind])
    before, listed = spectrum(model, (4, 6)), uncovered(model, (4, 6))
    assert set(listed) == ({"1.norm1", "1.norm2"} if kind == "encoder layer" else set())
    # Of a weight that is normalised (original1) the size does nothing; norms of layers are listed.
    weights = [
        parameter
        for name, parameter in COVERED[kind].named_parameters()
        if "bias" not in name and "original1" not in name and not name.startswith("norm")
    ]
    assert weights
    for weight in weights:
        kept = weight.data.clone()
        weight.data.mul_(1e-6)
        after = spectrum(model, (4, 6))
        weight.data.copy_(kept)
        assert any(after[name][0] < 1e-3 * values[0] for name, values in before.items())


@pytest.mark.parametrize("kind", UNCOVERED)
def test_small_weights_of_any_other_kind_are_seen_in_the_list(kind: str) -> None:
    module = UNCOVERED[kind]
    model = around(module)
    snapshot = Snapshot(model)
    before = uncovered(model, (4, 6))
    snapshot.assert_unchanged()
    assert before
    scaled(module, buffers=True)
    after = uncovered(model, (4, 6))
    assert before.keys() == after.keys()
    for name, part in before.items():
        assert after[name].norm == pytest.approx(1e-6 * part.norm, rel=1e-3, abs=1e-12)
        assert after[name].parameters == part.parameters


@pytest.mark.parametrize(
    ("kind", "listed"),
    [
        ("LSTM", {"1.lstm": "LSTM"}),
        ("parameter", {"1.first": "parameter of Weighted", "1.blur": "buffer of Weighted"}),
        ("function", {"1.lost": "Linear"}),  # the spare one is not used
        ("subclass", {"1": "Standardised"}),
        ("GroupNorm", {"1": "GroupNorm"}),
        ("batch norm on batches", {"1": "BatchNorm1d"}),
        (
            "biases of attention",
            {f"1.attention.bias_{which}": "parameter of MultiheadAttention" for which in "kv"},
        ),
        ("script", {"1": "RecursiveScriptModule"}),
    ],
)
def test_they_are_named(kind: str, listed: dict[str, str]) -> None:
    assert {name: part.kind for name, part in uncovered(around(UNCOVERED[kind]), (4, 6)).items()} == listed


@pytest.mark.parametrize("step", ["forward", "_conv_forward"])
def test_a_layer_that_got_a_step_of_its_own_is_named(step: str) -> None:
    """Not one that got a method which computes nothing."""
    convolution = nn.Conv2d(1, 2, 3)
    model = nn.Sequential(convolution, nn.Flatten())
    for harmless in ("train", "note"):
        setattr(convolution, harmless, lambda *args: convolution)
    assert not uncovered(model, (1, 4, 4))
    inner = getattr(convolution, step)
    setattr(convolution, step, lambda *args: 2 * inner(*args))
    assert list(uncovered(model, (1, 4, 4))) == ["0"]


def test_norms_without_weights_are_named_and_images_normalised_are_not() -> None:
    import robustlens as rl

    model = nn.Sequential(rl.models.Normalize([0.5], [0.2]), nn.InstanceNorm2d(1), nn.Flatten())
    found = uncovered(model, (1, 4, 4))
    assert {name: (part.kind, part.parameters) for name, part in found.items()} == {
        "1": ("InstanceNorm2d", 0)
    }


def test_a_network_that_is_one_layer_has_a_name() -> None:
    assert list(uncovered(nn.PReLU(), (3,))) == ["PReLU"]
    assert list(spectrum(nn.Linear(3, 2), (3,))) == [""]


@pytest.mark.parametrize("shape", [(0, 3), (-1, 4, 4), ()], ids=str)
def test_shapes_that_no_image_has_are_refused(shape: Any) -> None:
    with pytest.raises(ConfigError, match=r"input_shape: found .* expected that of one image"):
        uncovered(nn.Linear(3, 2), shape)
