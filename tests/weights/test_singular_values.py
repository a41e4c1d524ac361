"""The projection of weights on a range of singular values."""

import pytest
import torch
from torch import nn

from robustlens.errors import NumericsError
from robustlens.weights import bound_singular_values


def test_singular_values_are_clipped_and_their_vectors_stay():
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    layer = nn.Conv2d(2, 3, (1, 3))  # the matrix (3, 2 * 1 * 3)
    with torch.no_grad():
        layer.weight.copy_((torch.diag(torch.tensor([4.0, 1.0, 0.1])) @ q[:3]).view(3, 2, 1, 3))
    bias = layer.bias.detach().clone()
    bound_singular_values(layer, 0.5, 2.0)
    expected = torch.diag(torch.tensor([2.0, 1.0, 0.5])) @ q[:3]
    assert torch.allclose(layer.weight.detach().flatten(1), expected, atol=1e-6)
    assert torch.equal(layer.bias, bias)


def test_a_cap_alone_leaves_small_values():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))
    bound_singular_values(layer, 0.0, 1.0)
    assert torch.allclose(layer.weight, torch.tensor([[1.0, 0.0], [0.0, 0.2]]), atol=1e-6)


def test_frozen_weights_are_not_clipped_and_broken_ones_are_refused_before_any_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    bound_singular_values(model, 5.0, 6.0)
    assert torch.equal(model[0].weight, frozen)
    assert torch.allclose(torch.linalg.svdvals(model[1].weight.detach()), torch.full((3,), 5.0))
    model[0].weight.requires_grad_(True)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="NaN or infinite"):
        bound_singular_values(model, 0.0, 1.0)
    assert torch.equal(model[0].weight, frozen)
