"""Lipschitz constants and certified radii against dense matrices and exact distances."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, images
from robustlens.certification.lipschitz import CONSTANTS, diagonal
from robustlens.errors import ModelError
from robustlens.models import preact_resnet, resnet, wide_resnet
from robustlens.models.small import FlattenMap

SHAPE = (3, 6, 5)


def _norm(module, shape=SHAPE):
    """Exact norm of an affine module: the largest singular value of its Jacobian."""
    module = module.double().eval()
    jacobian = torch.func.jacrev(lambda flat: module(flat.view(1, *shape)).flatten())
    found = jacobian(torch.zeros(math.prod(shape), dtype=torch.float64)).detach()
    return float(torch.linalg.matrix_norm(found, 2))


def _warm(module):
    """Weights and statistics that are not those of a fresh network."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 2.0) if "running_var" in name else tensor.data.normal_()
    return module.eval()


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
    module = EXACT[name] if name == "normalize" else _warm(EXACT[name])
    assert CONSTANTS[type(module)](module, SHAPE) == pytest.approx(_norm(module), rel=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_constants_of_convolutions_are_bounds_and_not_far_above(name):
    exact = _norm(_warm(CONVOLUTIONS[name]))
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
    "resnet": resnet.Block(3, 3, 1),
    "resnet, halved": resnet.Block(3, 6, 2),
    "preact": preact_resnet.Block(3, 3, 1),
    "preact, projected": preact_resnet.Block(3, 6, 2),
    "preact, raw": preact_resnet.Block(3, 6, 2, raw_shortcut=True),
    "wide": wide_resnet.Block(3, 6, 2, dropout=0.3),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_move_no_more_than_their_constant(name):
    """The largest singular values of Jacobians, at many points, approach the constant and stay below."""
    block = _warm(BLOCKS[name]).double()
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


def test_the_certificate_of_an_affine_network_is_exact():
    torch.manual_seed(3)
    model = nn.Sequential(
        rl.models.Normalize([0.5] * 3, [0.25] * 3),
        _warm(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(2))),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    x, _ = images(20)
    logits = model(x).detach()
    y = logits.argmax(1)
    found = rl.explain.certificate(model, (3, 4, 4))
    matrix = torch.func.jacrev(lambda flat: model(flat.view(1, 3, 4, 4))[0])(torch.zeros(48))
    gap = logits.gather(1, y[:, None]) - logits
    distance = (matrix[y][:, None] - matrix).norm(dim=2)
    exact = (gap / distance).nan_to_num(torch.inf).scatter(1, y[:, None], torch.inf).amin(1)
    assert found.log_lipschitz == 0.0
    torch.testing.assert_close(found.radius(logits, y).float(), exact, rtol=1e-3, atol=1e-5)


def test_batch_norm_belongs_to_the_layer_before_it():
    """Channels that BatchNorm scales by 10 have small weights: the product of the two norms is 10 times the norm."""
    conv, norm = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0).eval()
    conv.weight.data = torch.diag(torch.tensor([1.0, 0.1])).view(2, 2, 1, 1)
    norm.weight.data = torch.tensor([1.0, 10.0])
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    found = rl.explain.certificate(nn.Sequential(conv, norm, *head), (2, 2, 2))
    assert found.log_lipschitz == pytest.approx(0.0, abs=1e-6)
    apart = rl.explain.certificate(nn.Sequential(conv, nn.Identity(), norm, *head), (2, 2, 2))
    assert apart.log_lipschitz == pytest.approx(math.log(10), abs=1e-6)


def test_a_network_that_does_not_depend_on_the_image_is_right_everywhere_or_nowhere():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight.data.zero_()
    model[2].bias.data = torch.tensor([1.0, 0.0])
    radius = rl.explain.certificate(model, (3,)).radius(
        model(torch.rand(2, 3)).detach(), torch.tensor([0, 1])
    )
    assert radius.tolist() == [torch.inf, 0.0]


@pytest.mark.parametrize("name", ["small-cnn", "small-cnn-bn", "resnet8", "preactresnet18"])
def test_networks_of_the_package_have_a_certificate(name):
    model = rl.models.get(name, num_classes=4, width=4)
    before = Snapshot(model)
    found = rl.explain.certificate(model, (3, 8, 8))
    before.assert_unchanged()
    assert math.isfinite(found.log_lipschitz)


class _Mystery(nn.Module):
    def forward(self, x):
        return 2 * x


def _hooked():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    model[1].register_forward_hook(lambda module, inputs, output: output * 3)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Mystery(), r"model \(_Mystery\) is of a type without a rule"),
        (nn.Sequential(_Mystery(), nn.Flatten()), r"model\.0 \(_Mystery\)"),
        (_hooked(), r"model\.1 \(Linear\) has hooks"),
        (
            nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten()),
            r"model\.0 \(Conv2d\) pads with 'reflect'",
        ),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.Flatten()), r"has dilation 2"),
        (
            nn.Sequential(nn.AvgPool2d(2, divisor_override=1), nn.ReLU(), nn.Flatten()),
            "has a divisor_override",
        ),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()), "no running statistics"),
    ],
)
def test_what_is_not_known_has_no_certificate(model, message):
    with pytest.raises(ModelError, match=message):
        rl.explain.certificate(model, (3, 4, 4))


def test_diagonals():
    norm = _warm(nn.BatchNorm2d(3))
    expected = norm.weight / (norm.running_var + norm.eps).sqrt()
    np.testing.assert_allclose(diagonal(norm).numpy(), expected.detach().numpy(), rtol=1e-6)
    assert diagonal(rl.models.Normalize([0.0], [0.25])).tolist() == [4.0]
    assert diagonal(nn.Linear(2, 2)) is None
