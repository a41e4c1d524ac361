"""Activation norms against networks that can be worked by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from robustlens import ThreatModel, models
from robustlens.data import Split
from robustlens.errors import ConfigError, ModelError
from robustlens.explain import Subject
from robustlens.explain.activations import (
    activations,
    coefficient_of_variation,
    measure_activations,
    summarize,
)


def linear(*rows: list[float]) -> nn.Linear:
    """A linear layer with these weights and no bias."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def by_hand(relu: nn.Module) -> nn.Module:
    return nn.Sequential(linear([1.0, 0.0], [0.0, -1.0]), relu, linear([3.0, 0.0], [4.0, 1.0]), relu)


X = torch.tensor([[3.0, -4.0], [3.0, 4.0], [-1.0, 2.0]])
# After the first layer and its ReLU: (3, 4), (3, 0), (0, 0). Logits: (9, 16), (9, 12), (0, 0).
EXPECTED = {"2.input": [5.0, 3.0, 0.0], "logits": [337.0**0.5, 15.0, 0.0]}


def test_norms_are_those_worked_by_hand() -> None:
    found = activations(by_hand(nn.ReLU()), X)
    assert list(found) == list(EXPECTED)
    assert all(norms.dtype == np.float32 for norms in found.values())
    for key, norms in EXPECTED.items():
        np.testing.assert_allclose(found[key], norms, rtol=1e-6)


class Functional(nn.Module):
    """The same network without ReLU modules, its layers named and called in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.last = linear([3.0, 0.0], [4.0, 1.0])
        self.first = linear([1.0, 0.0], [0.0, -1.0])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.relu(self.first(x))))


def test_functional_activations_are_seen_and_the_first_layer_is_the_first_one_called() -> None:
    found = activations(Functional(), X)
    assert list(found) == ["last.input", "logits"]
    np.testing.assert_allclose(found["last.input"], EXPECTED["2.input"])


def test_in_place_activations_change_neither_the_norms_nor_the_images() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), by_hand(nn.ReLU(inplace=True)))
    x = X.clone()
    found = activations(model, x)
    assert torch.equal(x, X)
    expected = activations(by_hand(nn.ReLU()), X.relu())
    np.testing.assert_allclose(found["1.2.input"], expected["2.input"])


def test_convolutions_are_measured_over_channels_and_pixels() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.LazyLinear(2)
    )
    x = torch.tensor([1.0, -2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    model(x)
    model[0].weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    # Channel 0 keeps 2, 6, 8 and channel 1 keeps 2.
    np.testing.assert_allclose(activations(model, x)["2.input"], [(4 + 36 + 64 + 4) ** 0.5], rtol=1e-6)


class Shared(nn.Module):
    """One layer called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear([1.0, 0.0], [0.0, 1.0])
        self.layer = linear([2.0, 0.0], [0.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(self.layer(self.first(x))))


def test_a_layer_that_is_called_several_times_adds_up_what_it_reads() -> None:
    found = activations(Shared(), torch.tensor([[3.0, 4.0]]))
    np.testing.assert_allclose(found["layer.input"], [(25 + 100 + 400) ** 0.5], rtol=1e-6)


@pytest.mark.parametrize("name", ["small-cnn-bn", "resnet8", "preactresnet18"])
def test_the_batch_size_changes_nothing(name: str) -> None:
    model = models.get(name, num_classes=3, in_channels=3).train()
    x = torch.rand(7, 3, 8, 8)
    whole, parts = activations(model, x), activations(model, x, batch_size=2)
    assert list(whole) == list(parts)
    for key, norms in whole.items():
        assert norms.shape == (7,)
        np.testing.assert_allclose(parts[key], norms, rtol=1e-5)


def test_keys_line_up_with_the_layers_of_the_spectrum() -> None:
    from robustlens.spectra import spectrum

    model = models.get("small-cnn", num_classes=3, in_channels=1, width=2, hidden=4)
    layers = list(spectrum(model, (1, 12, 12)))
    keys = list(activations(model, torch.rand(2, 1, 12, 12)))
    assert keys == [*(f"{layer}.input" for layer in layers[1:]), "logits"]


def test_the_model_is_left_as_it_was_even_where_it_fails() -> None:
    model: Any = models.get("small-cnn-bn", num_classes=3, in_channels=1, width=2).train()
    model.bn2.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    activations(model, torch.rand(4, 1, 12, 12), batch_size=3)
    with pytest.raises(ModelError, match="found images with 2 channels, expected 1"):
        activations(model, torch.rand(4, 2, 12, 12))
    assert model.training
    assert model.bn1.training
    assert not model.bn2.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


class Folded(nn.Module):
    """Puts two pixels of each image into the batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.pixels = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pixels(self.first(x).view(-1, 2)).view(-1, 4)


def test_a_layer_that_loses_the_batch_dimension_is_named() -> None:
    with pytest.raises(ModelError, match=r"'pixels\.input' has 6 rows for 3 images"):
        activations(Folded(), torch.rand(3, 4))


def test_variation_is_the_standard_deviation_over_the_mean() -> None:
    assert coefficient_of_variation(np.array([1.0, 3.0])) == 0.5
    assert coefficient_of_variation(np.array([10.0, 30.0], dtype=np.float32)) == 0.5
    assert coefficient_of_variation(np.zeros(4)) == 0.0
    assert summarize(np.array([1.0, 3.0])) == {"mean": 2.0, "std": 1.0, "std_over_mean": 0.5}
    with pytest.raises(ConfigError, match="found no values"):
        coefficient_of_variation(np.zeros(0))


def test_a_network_in_double_precision_has_the_norms_of_its_single_precision() -> None:
    found = activations(by_hand(nn.ReLU()).double(), X.double())
    for key, norms in EXPECTED.items():
        np.testing.assert_allclose(found[key], norms, rtol=1e-6)


# What the layers write: (3, 4), (3, -4), (-1, -2), and the logits.
OUTPUTS = {
    "pre-activation/0": [5.0, 5.0, 5.0**0.5],
    "post-activation/0": EXPECTED["2.input"],
    "pre-activation/2": EXPECTED["logits"],
    "post-activation/2": EXPECTED["logits"],
}


@pytest.mark.parametrize("in_place", [False, True])
def test_what_layers_and_non_linearities_write_is_that_worked_by_hand(in_place: bool) -> None:
    found = activations(by_hand(nn.ReLU(inplace=in_place)), X, outputs=True)
    assert set(found) == {*EXPECTED, *OUTPUTS}
    for key, norms in (EXPECTED | OUTPUTS).items():
        np.testing.assert_allclose(found[key], norms, rtol=1e-6)


class Residual(nn.Module):
    """Non-linearities written as functions, with a shortcut and a pooling behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = linear([1.0, 0.0], [0.0, -1.0]), linear([1.0, 1.0], [1.0, -1.0])
        self.last = linear([1.0], [2.0])
        self.temperature = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp(x, -9, 9)  # of the image: no activation
        x = self.first(x).clamp_min(0) + x
        x = torch.relu(self.second(x))
        return self.last(F.max_pool1d(x, 2)) / F.softplus(self.temperature)


@pytest.mark.parametrize(
    "name", ["LogSigmoid", "Tanhshrink", "Softshrink", "Hardshrink", "GLU", "ReLU6", "Mish"]
)
def test_what_a_non_linearity_of_torch_gives_is_a_post_activation(name: str) -> None:
    torch.manual_seed(0)
    layer, function, x = nn.Linear(3, 8), getattr(nn, name)(), torch.rand(5, 3)
    model = nn.Sequential(layer, function, nn.Linear(len(function(layer(x))[0]), 2))
    norms = activations(model, x, outputs=True)["post-activation/0"]
    assert norms == pytest.approx(function(layer(x)).detach().norm(dim=1).numpy(), rel=1e-5)


def test_post_activations_are_read_before_the_shortcut_and_the_pool() -> None:
    found = activations(Residual(), torch.tensor([[3.0, -4.0]]), outputs=True)
    # first writes (3, 4), rectified the same; the shortcut makes it (6, 0), second writes (6, 6), the pool 6.
    expected = {
        "pre-activation/first": 5.0,
        "post-activation/first": 5.0,
        "second.input": 6.0,
        "post-activation/second": 72.0**0.5,
        "last.input": 6.0,
    }
    assert {key: float(found[key][0]) for key in expected} == pytest.approx(expected)
    assert "post-activation/last" not in found


def test_without_outputs_nothing_else_is_read() -> None:
    assert not any("/" in key for key in activations(Residual(), torch.tensor([[3.0, -4.0]])))


def test_a_network_of_one_layer_has_its_logits_alone() -> None:
    found = activations(linear([1.0, 0.0], [0.0, 2.0]), X, outputs=True)
    assert list(found) == ["pre-activation/", "logits"]
    np.testing.assert_array_equal(found["pre-activation/"], found["logits"])


def test_the_measure_has_both_splits_and_what_varies_within_classes() -> None:
    pixels = torch.randint(0, 256, (8, 1, 1, 2), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0, 1])
    test, train = (
        Split(pixels[rows], labels[rows], torch.arange(8)[rows]) for rows in (slice(5), slice(5, 8))
    )
    model = nn.Sequential(nn.Flatten(), by_hand(nn.ReLU()))
    found = measure_activations(Subject(model, train, test, ThreatModel("Linf", 0.1)))
    norms = activations(model, test.x(), outputs=True)
    for key, each in norms.items():
        np.testing.assert_allclose(found.arrays[key], each)
    assert found.arrays["label"].tolist() == [0, 0, 1, 1, 1]
    assert found.arrays["train_label"].tolist() == [2, 0, 1]
    assert found.arrays["train_index"].tolist() == [5, 6, 7]
    trained = activations(model, train.x(), outputs=True)
    np.testing.assert_allclose(found.arrays["train/post-activation/1.0"], trained["post-activation/1.0"])
    each = norms["post-activation/1.0"].astype(np.float64)
    classes = [each[:2], each[2:]]
    within = np.concatenate([own - own.mean() for own in classes])
    summary = found.value["post-activation"]["1.0"]
    assert summary["std"] == pytest.approx(each.std())
    assert summary["within_class_std"] == pytest.approx(np.sqrt(np.mean(within**2)))
    assert summary["within_class_std_over_mean"] == pytest.approx(np.sqrt(np.mean(within**2)) / each.mean())
    assert set(found.value["layers"]) == {"1.2.input", "logits"}
    # Three images of three classes: nothing varies within a class.
    assert found.value["train"]["layers"]["logits"]["within_class_std"] == pytest.approx(0, abs=1e-6)


def test_a_subject_without_training_images_is_measured_on_test_images() -> None:
    x, none = torch.zeros(3, 1, 1, 2).byte(), torch.zeros(0).long()
    model = nn.Sequential(nn.Flatten(), by_hand(nn.ReLU()))
    split = Split(x, torch.zeros(3).long(), torch.arange(3))
    found = measure_activations(Subject(model, Split(x[:0], none, none), split, ThreatModel("Linf", 0.1)))
    assert "train" not in found.value
    assert not any(key.startswith("train") for key in found.arrays)


def test_the_first_layer_called_again_reads_an_activation():
    """The same function with a copy of the layer: only the first call reads the image."""
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 2))
    copies = nn.Sequential(*[copy.deepcopy(module) for module in model])
    x = torch.rand(5, 6)
    found, expected = activations(model, x), activations(copies, x)
    assert list(found) == ["0.input", "4.input", "logits"]
    np.testing.assert_array_equal(found["0.input"], expected["2.input"])
    np.testing.assert_array_equal(found["4.input"], expected["4.input"])
