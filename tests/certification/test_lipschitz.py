"""Lipschitz constants against dense matrices and Jacobians."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.known_networks import warm
from robustlens.certification.lipschitz import CONSTANTS, diagonal
from robustlens.models import preact_resnet, resnet, wide_resnet
from robustlens.models.small import FlattenMap

SHAPE = (3, 6, 5)


def _norm(module, shape=SHAPE):
    """Exact norm of an affine module: the largest singular value of its Jacobian."""
    module = module.double().eval()
    jacobian = torch.func.jacrev(lambda flat: module(flat.view(1, *shape)).flatten())
    found = jacobian(torch.zeros(math.prod(shape), dtype=torch.float64)).detach()
    return float(torch.linalg.matrix_norm(found, 2))


EXACT = {
    "linear": nn.Linear(5, 4),
    "normalize": rl.models.Normalize([0.1, 0.2, 0.3], [0.5, 0.25, 2.0]),
    "batch norm": nn.BatchNorm2d(3),
    "average pool": nn.AvgPool2d(2),
    "average pool, windows that overlap": nn.AvgPool2d(3, stride=2, padding=1),
    "average pool, borders not counted": nn.AvgPool2d(
        (3, 2), stride=1, padding=1, ceil_mode=True, count_include_pad=False
    ),
    "global pool": nn.AdaptiveAvgPool2d(1),
    "uneven pool": nn.AdaptiveAvgPool2d((4, 2)),
    "flattened map": FlattenMap(3),
}


CONVOLUTIONS = {
    "same": nn.Conv2d(3, 4, 3, padding=1),
    "no padding": nn.Conv2d(3, 4, (2, 3)),
    "stride": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "dilation": nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "groups": nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "far padding": nn.Conv2d(3, 4, 2, padding=3),
}


@pytest.mark.parametrize("name", EXACT)
def test_constants_of_affine_modules_are_their_norms(name):
    module = EXACT[name] if name == "normalize" else warm(EXACT[name])
    assert CONSTANTS[type(module)](module, SHAPE) == pytest.approx(_norm(module), rel=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_constants_of_convolutions_are_bounds_and_not_far_above(name):
    exact = _norm(warm(CONVOLUTIONS[name]))
    found = CONSTANTS[nn.Conv2d](CONVOLUTIONS[name], SHAPE)
    assert exact * (1 - 1e-9) <= found <= 1.5 * exact


def test_a_circular_norm_on_the_layers_own_map_would_be_too_small():
    """Why the map is enlarged: +1 and -1 in turn, which a map of odd size cannot hold when it wraps around."""
    layer = nn.Conv2d(1, 1, (1, 2), bias=False)
    layer.weight.data = torch.tensor([[[[1.0, -1.0]]]])
    found, exact = CONSTANTS[nn.Conv2d](layer, (1, 1, 3)), _norm(layer, (1, 1, 3))
    same_map = rl.explain.spectrum(nn.Sequential(layer.float()), (1, 1, 3))["0"][0]
    assert same_map == pytest.approx(math.sqrt(3))
    assert exact == pytest.approx(math.sqrt(3))
    assert found == pytest.approx(2.0)


MAXIMA = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((3, 2), 1)]


@pytest.mark.parametrize("pool", MAXIMA, ids=str)
def test_maxima_move_no_more_than_their_constant(pool):
    x = torch.rand(50, *SHAPE, dtype=torch.float64)
    moved = x + 1e-3 * torch.randn_like(x)
    spike = torch.zeros(1, *SHAPE, dtype=torch.float64)
    spike[0, 0, 2, 2] = 1.0
    x, moved = torch.cat([x, 0 * spike]), torch.cat([moved, spike])
    ratio = (pool(moved) - pool(x)).flatten(1).norm(dim=1) / (moved - x).flatten(1).norm(dim=1)
    assert ratio.max() <= CONSTANTS[nn.MaxPool2d](pool, SHAPE) + 1e-12


BLOCKS = {
    "resnet": resnet.BasicBlock(3, 3, 1),
    "resnet, halved": resnet.BasicBlock(3, 6, 2),
    "preact": preact_resnet.PreActBlock(3, 3, 1),
    "preact, projected": preact_resnet.PreActBlock(3, 6, 2),
    "preact, raw": preact_resnet.PreActBlock(3, 6, 2, raw_shortcut=True),
    "wide": wide_resnet.WideBlock(3, 6, 2, dropout=0.3),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_move_no_more_than_their_constant(name):
    """The largest singular values of Jacobians, at many points, approach the constant and stay below."""
    block = warm(BLOCKS[name]).double()
    limit = CONSTANTS[type(block)](block, SHAPE)
    jacobian = torch.func.jacrev(lambda flat: block(flat.view(1, *SHAPE)).flatten())
    found = [
        torch.linalg.matrix_norm(jacobian(torch.randn(math.prod(SHAPE), dtype=torch.float64)), 2)
        for _ in range(5)
    ]
    assert limit / 30 < max(found) <= limit
    block.conv2.weight.data.zero_()  # the shortcut alone
    ones = torch.ones(math.prod(SHAPE), dtype=torch.float64)
    shortcut = torch.linalg.matrix_norm(jacobian(ones), 2)
    assert 0 < shortcut <= CONSTANTS[type(block)](block, SHAPE) * (1 + 1e-12)


def test_diagonals():
    norm = warm(nn.BatchNorm2d(3))
    expected = norm.weight / (norm.running_var + norm.eps).sqrt()
    np.testing.assert_allclose(diagonal(norm).numpy(), expected.detach().numpy(), rtol=1e-6)
    assert diagonal(rl.models.Normalize([0.0], [0.25])).tolist() == [4.0]
    assert diagonal(nn.Linear(2, 2)) is None
