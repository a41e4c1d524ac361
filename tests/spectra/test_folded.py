"""BatchNorm in the spectra: against Jacobians of the modules together, and what a ReLU lets pass."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from helpers.convolutions import dense_operator
from helpers.small_models import Snapshot, trained
from robustlens import models
from robustlens.errors import NumericsError
from robustlens.spectra import spectrum, trace
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import blank


def jacobian_of(function: Any, shape: tuple[int, ...]) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(function, x)
    return matrix.reshape(-1, x.numel())


def values_of(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.detach().numpy(), compute_uv=False)


def weights(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    layers = trace(model, shape)
    scaled = Folding.of(model, layers, blank(model, shape)).applied(layers)
    return {name: layer.weight for name, layer in scaled.items()}


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": 2}], ids=str)
def test_after_a_convolution_it_is_the_jacobian_of_both(options: dict[str, Any]) -> None:
    model = trained(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, **options), nn.BatchNorm2d(6), nn.ReLU()))
    found = spectrum(model, (4, 6, 5), operator="zero", fold=True)["0"]
    expected = values_of(jacobian_of(model[:2], (1, 4, 6, 5)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * expected[0])
    raw = spectrum(model, (4, 6, 5), operator="zero")["0"]
    np.testing.assert_allclose(raw, values_of(dense_operator(model[0], (6, 5), "zero")), atol=1e-12)


def test_after_a_linear_layer_it_is_the_jacobian_of_both() -> None:
    model = trained(nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.BatchNorm1d(7)))
    found = spectrum(model, (3, 2, 2), fold=True)["1"]
    np.testing.assert_allclose(found, values_of(jacobian_of(model, (1, 3, 2, 2))), rtol=1e-10)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_before_a_convolution_the_scale_passes_through_the_activation(
    activation: nn.Module, groups: int
) -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    model = trained(nn.Sequential(nn.BatchNorm2d(4), activation, conv))
    norm = model[0]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    found = weights(model, (4, 5, 5))["2"]

    def rewritten(x: Tensor) -> Tensor:
        """The same network, with signs and shifts only before the activation."""
        sides = (scale.sign(), shift / scale.abs())
        signed, moved = (side[:, None, None] for side in sides)
        return F.conv2d(activation(signed * x + moved), found, conv.bias, padding=1, groups=groups)

    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(rewritten(x), model(x.clone()))


def test_the_scale_passes_pooling_and_flattening_to_a_linear_layer() -> None:
    tail = [
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 4),
    ]
    model = trained(nn.Sequential(nn.BatchNorm2d(3), *tail))
    norm = model[0]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs().detach()
    expected = model[6].weight.detach() * scale.repeat_interleave(4)
    torch.testing.assert_close(weights(model, (3, 8, 8))["6"], expected)


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


def test_each_batch_norm_goes_to_one_side_only() -> None:
    model = trained(Block())
    found = weights(model, (4, 5, 5))
    first, second = (bn.weight.detach() / (bn.running_var + bn.eps).sqrt() for bn in (model.bn1, model.bn2))
    columns = first.abs().view(1, -1, 1, 1)
    assert set(found) == {"conv1", "shortcut"}  # bn2 follows conv1, and so does not precede conv2
    torch.testing.assert_close(
        found["conv1"], model.conv1.weight.detach() * columns * second.view(-1, 1, 1, 1)
    )
    torch.testing.assert_close(found["shortcut"], model.shortcut.weight.detach() * columns)


class Interrupted(nn.Module):
    """What a convolution reads is not what a BatchNorm gave."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.between = between
        self.bn, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        if self.between == "tanh":
            y = torch.tanh(y)
        elif self.between == "+=":
            y += x
        elif self.between == "[]=":
            y[:, 0] = 1.0
        elif self.between == "relu6":
            y = F.relu6(y)
        return self.conv(y) + (self.conv(x) if self.between == "twice" else 0)


@pytest.mark.parametrize("between", ["tanh", "+=", "[]=", "relu6", "twice"])
def test_nothing_is_folded_where_the_scale_does_not_pass(between: str) -> None:
    assert set(weights(trained(Interrupted("nothing")), (2, 5, 5))) == {"conv"}
    assert not weights(trained(Interrupted(between)), (2, 5, 5))


def test_a_preactivation_network_folds_all_but_what_reads_sums() -> None:
    model = trained(models.get("preactresnet18", num_classes=10, in_channels=3, width=4))
    found = weights(model, (3, 8, 8))
    layers = trace(model, (3, 8, 8))
    unfolded = {name for name, layer in layers.items() if not layer.is_scale} - set(found)
    # The first convolution is read by a shortcut too; a second one's BatchNorm has gone to the first.
    seconds = {f"layer{stage}.{block}.conv2" for stage in range(1, 5) for block in range(2)}
    assert unfolded == {"conv1", "linear"} | seconds
    # Each BatchNorm is in one of its neighbours but those after sums, whose scales pass to no single layer.
    assert not any(
        layer.is_scale for layer in Folding.of(model, layers, blank(model, (3, 8, 8))).apart(layers).values()
    )


def test_the_model_is_left_as_it_was() -> None:
    model = trained(Block()).train()
    before = Snapshot(model)
    spectrum(model, (4, 5, 5), fold=True)
    before.assert_unchanged()


def test_a_scale_that_is_not_finite_is_named() -> None:
    model = trained(Block())
    model.bn1.running_var[0] = -1.0
    with pytest.raises(NumericsError, match="layer 'conv1' has a weight that is NaN"):
        spectrum(model, (4, 5, 5), fold=True)
