"""Which weights of a network are matrices, for perturbations and for bounds of singular values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from helpers.small_models import Snapshot, images
from robustlens.errors import ConfigError
from robustlens.explain.hessian import Hessian, filter_units
from robustlens.explain.landscape import filter_normalised
from robustlens.spectra import spectrum
from robustlens.weights import (
    AdversarialWeightPerturbation,
    bound_singular_values,
    layer_matrices,
    matrix_parameters,
    named_matrix_parameters,
)


class Tokens(nn.Module):
    """Attention over five tokens of a learnt place, with a normalisation of two dimensions."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm([5, 8])
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.embed(x[:, 0]) + self.places)
        keys, values = z[..., : self.attention.kdim], z[..., : self.attention.vdim]
        return self.head(self.attention(z, keys, values)[0][:, 0])


OLDER = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "older weight_norm": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "older spectral_norm": spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("sizes", [{}, {"kdim": 4, "vdim": 6}], ids=["stacked", "apart"])
def test_capacity_holds_what_the_kernel_operator_measures_and_nothing_else(sizes: dict[str, int]) -> None:
    model = Tokens(**sizes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    bound_singular_values(model, 0.9, 1.1)
    measured = spectrum(model, (1, 5, 6), operator="kernel")
    assert list(measured) == ["embed", *(f"attention.{part}" for part in ("q", "k", "v", "out_proj")), "head"]
    for name, values in measured.items():
        assert values.min() >= 0.9 - 1e-5, name
        assert values.max() <= 1.1 + 1e-5, name
    held = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert held.isdisjoint({"places", "norm.weight", "norm.bias", "attention.in_proj_bias"})
    assert len(layer_matrices(model)) == 6


def test_capacity_of_ordinary_networks_is_bit_for_bit_that_of_each_weight_laid_flat() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 2), nn.Linear(9, 3)
    )
    expected = []
    for weight in (p.detach() for p in model.parameters() if p.ndim > 1):
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        expected.append(((u * s.clamp(0.8, 1.25)) @ vh).view(weight.shape))
    bound_singular_values(model, 0.8, 1.25)
    for weight, wanted in zip((p for p in model.parameters() if p.ndim > 1), expected, strict=True):
        assert torch.equal(weight, wanted)


@OLDER
@pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=list(WRAPPED))
def test_capacity_refuses_a_weight_that_is_made_of_others(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(5, 4), wrapper(nn.Linear(4, 3)))
    before = Snapshot(model)
    with pytest.raises(ConfigError, match=r"capacity: found that weight of layer '1' is made of other"):
        bound_singular_values(model, 0.5, 0.6)
    before.assert_unchanged()
    model[1].requires_grad_(False)
    bound_singular_values(model, 0.5, 0.6)
    assert torch.linalg.svdvals(model[0].get_parameter("weight").detach()).max() < 0.6 + 1e-5


def test_capacity_refuses_networks_without_a_weight_that_it_could_hold() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(5, 4)))
    for model in (nn.Sequential(nn.LayerNorm([3, 4])), nn.Linear(4, 3).requires_grad_(False), scripted):
        with pytest.raises(ConfigError, match="capacity: found no convolution, linear layer or attention"):
            bound_singular_values(model, 0.5, 0.6)


def test_nothing_of_a_normalisation_layer_moves() -> None:
    layers = [nn.Conv2d(3, 2, 3), nn.LayerNorm([2, 2, 2]), nn.RMSNorm([2, 2, 2]), nn.Flatten()]
    model, (x, y) = nn.Sequential(*layers, nn.Linear(8, 5)), images()
    names = ["0.weight", "4.weight"]
    assert list(named_matrix_parameters(model)) == names
    assert list(filter_normalised(model, torch.Generator())) == list(filter_units(model)) == names
    assert Hessian(model, x, y).names == names
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with AdversarialWeightPerturbation(model).perturbed(lambda: F.cross_entropy(model(x), y)):
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == names


@OLDER
@pytest.mark.parametrize("normalised", [parametrizations.weight_norm, weight_norm])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_a_normalised_weight_moves_as_far_as_another(
    kind: type[nn.Module], normalised: Callable[[nn.Module], nn.Module]
) -> None:
    """By gamma of its norm at most: its direction moves, and its magnitudes do not."""
    before, layer = (
        (nn.Flatten(), nn.Linear(48, 5)) if kind is nn.Linear else (nn.Identity(), nn.Conv2d(3, 5, 4))
    )
    model: Any = nn.Sequential(before, normalised(layer), nn.Flatten())
    x, y = images()
    assert len(matrix_parameters(model)) == 1
    weight = model[1].weight.detach().clone()
    awp = AdversarialWeightPerturbation(model, gamma=0.01)
    with awp.perturbed(lambda: F.cross_entropy(model(x), y)), torch.no_grad():
        model(x)  # the older way computes its weight in the pass
        assert 0.001 < (model[1].weight - weight).norm() / weight.norm() < 0.0101
