"""The measure of spectra: with BatchNorm apart, and folded in."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from helpers.small_models import trained
from robustlens import ThreatModel
from robustlens.data import Split
from robustlens.explain import Subject
from robustlens.explain.spectrum import measure_spectrum
from robustlens.spectra import spectrum
from robustlens.weights.singular_values import bound_singular_values


class Block(nn.Module):
    """A pre-activation block with a projection, in functions where it can be."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + self.shortcut(activated)


def subject(model: nn.Module) -> Subject:
    split = Split(
        torch.zeros(3, 4, 5, 5, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), torch.arange(3)
    )
    return Subject(model, split, split, ThreatModel("Linf", 0.1))


def test_the_measure_gives_layers_apart_and_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(Block())
    apart, fold = (measure_spectrum(subject(model), batch_norm=how) for how in ("apart", "fold"))
    assert apart.value["layers"] == fold.value["layers"]
    kernels = {f"kernel/{name}" for name in ("conv1", "conv2", "shortcut", "folded/conv1", "folded/shortcut")}
    assert set(apart.arrays) == {"conv1", "conv2", "shortcut", "bn1", "bn2"} | kernels
    assert set(apart.value["layers"]) == {"conv1", "conv2", "shortcut"}
    assert set(apart.value["scales"]) == {"bn1", "bn2"}
    assert apart.value["uncovered"] == {}
    assert set(fold.arrays) == set(apart.arrays) | {"folded/conv1", "folded/shortcut"}
    assert set(fold.value["folded"]) == {"conv1", "shortcut"}
    raw, with_norm = (spectrum(model, (4, 5, 5), fold=folds) for folds in (False, True))
    for name in ("conv1", "shortcut"):
        np.testing.assert_array_equal(fold.arrays[name], raw[name])
        np.testing.assert_array_equal(fold.arrays[f"folded/{name}"], with_norm[name])
        assert fold.value["folded"][name]["max"] == with_norm[name][0]
        assert fold.value["folded"][name]["shape"] == fold.value["layers"][name]["shape"]


class Tied(nn.Module):
    """A layer that runs three times in a pass, and BatchNorms of which one can be folded into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(F.silu(self.bn1(x))))
        for _ in range(3):
            x = F.silu(self.conv1(x))
        return self.bn2(self.conv2(x))


@pytest.mark.parametrize("batch_norm", ["apart", "fold"])
def test_the_measure_says_how_often_layers_run_and_which_batch_norms_no_layer_takes_in(
    batch_norm: Literal["apart", "fold"],
) -> None:
    value = measure_spectrum(subject(trained(Tied())), batch_norm=batch_norm).value
    assert value["calls"] == {"bn1": 2, "conv1": 3}
    assert (set(value["scales"]), value["unfolded"]) == ({"bn1", "bn2"}, ["bn1"])


def test_a_layer_too_large_for_its_matrix_is_measured_by_its_density() -> None:
    model = trained(Block())
    largest = 8 * (4 * 25) * (6 * 25) - 1  # of conv1, less one byte
    measured = measure_spectrum(subject(model), operator="zero", max_bytes=largest)
    exact = measure_spectrum(subject(model), operator="zero")
    layers, known = measured.value["layers"], exact.value["layers"]
    assert "conv1, conv2" in measured.what
    assert layers["shortcut"]["method"] == "density, 4 draws of 64 Lanczos steps"
    assert "method" not in known["conv1"]
    for name in ("conv1", "conv2"):
        assert layers[name]["max"] == pytest.approx(known[name]["max"], rel=1e-6)
        assert layers[name]["count"] == known[name]["count"]
        assert abs(layers[name]["std"] - known[name]["std"]) <= layers[name]["error"]["std"]
        assert measured.arrays[name].shape == (1000,)
    np.testing.assert_array_equal(measured.arrays["bn1"], exact.arrays["bn1"])
    again = measure_spectrum(subject(model), operator="zero", max_bytes=largest)
    assert again.value == measured.value


def test_a_stride_that_does_not_divide_its_map_gives_a_density_where_its_matrix_is_too_large() -> None:
    """The default operator; every other layer has all of its values."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)).eval()
    measured = measure_spectrum(subject(model), max_bytes=8 * (6 * 9) * (4 * 25) - 1)
    exact = measure_spectrum(subject(model))
    estimate, known = measured.value["layers"]["1"], exact.value["layers"]["1"]
    assert "by their density: 1." in measured.what
    assert "method" not in known
    assert estimate["max"] == pytest.approx(known["max"], rel=1e-6)
    assert abs(estimate["std"] - known["std"]) <= estimate["error"]["std"]
    assert measured.value["layers"]["0"] == exact.value["layers"]["0"]
    assert measured.value["kernel"] == exact.value["kernel"]


def known_values(shape: tuple[int, ...], values: list[float]) -> Tensor:
    """A weight whose matrix (outputs, rest) has these singular values."""
    outputs, rest = shape[0], int(np.prod(shape[1:]))
    torch.manual_seed(outputs)
    u, v = (torch.linalg.qr(torch.randn(n, len(values), dtype=torch.float64)).Q for n in (outputs, rest))
    return (u * torch.tensor(values, dtype=torch.float64) @ v.T).view(shape).float()


def test_the_kernel_operator_has_the_values_of_the_weight_laid_flat() -> None:
    model: Any = Block().eval()
    values = [4.0, 3.0, 2.0, 1.5, 1.0, 0.5]
    model.conv1.weight.data = known_values((6, 4, 3, 3), values)
    model.bn2.weight.data = torch.full((6,), 3.0)
    model.bn2.running_var.data = torch.full((6,), 4.0 - model.bn2.eps)
    model.bn1.running_var.data = torch.full((4,), 1.0 - model.bn1.eps)
    found = measure_spectrum(subject(model))
    np.testing.assert_allclose(found.arrays["kernel/conv1"], values, rtol=1e-6)
    # BatchNorm, behind conv1, multiplies all of its channels by 3 / 2.
    np.testing.assert_allclose(found.arrays["kernel/folded/conv1"], 1.5 * np.array(values), rtol=1e-6)
    kernel = found.value["kernel"]
    assert kernel["layers"]["conv1"]["std"] == pytest.approx(np.std(values))
    assert kernel["folded"]["conv1"]["max"] == pytest.approx(6.0)
    assert found.conditions["operator"] == "circular"
    direct = spectrum(model, (4, 5, 5), operator="kernel")
    np.testing.assert_array_equal(direct["conv1"], found.arrays["kernel/conv1"])
    # On the feature map a 3x3 kernel does something else.
    assert found.arrays["conv1"][0] > 1.01 * values[0]


def test_what_capacity_holds_is_what_the_kernel_operator_measures() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(64, 3))
    bound_singular_values(model, 0.8, 1.25)
    found = measure_spectrum(subject(model))
    for name in ("0", "1", "3"):
        held = found.arrays[f"kernel/{name}"]
        assert held.min() >= 0.8 - 1e-5
        assert held.max() <= 1.25 + 1e-5
    assert found.arrays["0"].max() > 1.3
    np.testing.assert_array_equal(found.arrays["3"], found.arrays["kernel/3"])
    assert found.value["kernel"]["folded"] == {}
