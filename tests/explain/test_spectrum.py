"""The measure of spectra: with BatchNorm apart, and folded in."""

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
    assert set(apart.arrays) == {"conv1", "conv2", "shortcut", "bn1", "bn2"}
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
