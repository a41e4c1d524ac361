"""Certified radii against exact distances."""

import copy
import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.known_networks import warm
from helpers.small_models import Snapshot, images
from robustlens.errors import ModelError
from robustlens.models.resnet import BasicBlock


def test_the_certificate_of_an_affine_network_is_exact():
    torch.manual_seed(3)
    model = nn.Sequential(
        rl.models.Normalize([0.5] * 3, [0.25] * 3),
        warm(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(2))),
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


def _linear(*rows: list[float], bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    layer.weight.data, layer.bias.data = torch.tensor(rows), torch.tensor([bias] + [0.0] * (len(rows) - 1))
    return layer


def _with_a_relu_twice() -> nn.Sequential:
    """Logits |x_0| - 0.3 and 0, but x_0 - x_0 - 0.3 and 0 without the second ReLU."""
    relu = nn.ReLU()
    first, second = _linear([1.0, 0.0], [0.0, 1.0]), _linear([1.0, 0.0], [-1.0, 0.0])
    return nn.Sequential(first, relu, second, relu, _linear([1.0, 1.0], [0.0, 0.0], bias=-0.3))


def _with_a_layer_twice() -> nn.Sequential:
    layer = _linear([3.0, 0.0], [0.0, 3.0])
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), _linear([1.0, 0.0], [0.0, 0.0], bias=-4.5))


def _with_a_stage_twice() -> nn.Sequential:
    stage = nn.Sequential(_linear([3.0, 0.0], [0.0, 3.0]), nn.ReLU())
    return nn.Sequential(stage, stage, _linear([1.0, 0.0], [0.0, 0.0], bias=-4.5))


@pytest.mark.parametrize("build", [_with_a_relu_twice, _with_a_layer_twice, _with_a_stage_twice])
def test_a_module_in_several_places_counts_in_each(build):
    """The same function with a module of its own in each place, and the exact distance: the logits cross in x_0."""
    model, x, y = build(), torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    assert (model(x).argmax(1) == y).all()
    boundary = 0.3 if build is _with_a_relu_twice else 0.5
    assert model(torch.tensor([[boundary, 0.5]]))[0, 0].item() == pytest.approx(0.0, abs=1e-6)
    radius = rl.explain.certificate(model, (2,)).radius(model(x).detach(), y)
    assert 0 < radius.item() <= 0.6 - boundary
    places = nn.Sequential(*[copy.deepcopy(module) for module in model])
    assert torch.equal(rl.explain.certificate(places, (2,)).radius(places(x).detach(), y), radius)


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


def _patched():
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(48, 2))
    model[1].forward = lambda x: 100 * x
    return model


def _patched_inside():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    inner = model[0]._conv_forward
    model[0]._conv_forward = lambda x, weight, bias: 100 * inner(x, weight, bias)
    return model


def _patched_at_the_end():
    block = BasicBlock(3, 4, 1).eval()
    block.relu2.forward = lambda x: 100 * x
    return nn.Sequential(block, nn.Flatten())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Mystery(), r"model \(_Mystery\) is of a type without a rule"),
        (nn.Sequential(_Mystery(), nn.Flatten()), r"model\.0 \(_Mystery\)"),
        (_hooked(), r"model\.1 \(Linear\) has hooks"),
        (_patched(), r"model\.1 \(ReLU\) has a forward pass of its own"),
        (_patched_inside(), r"model\.0 \(Conv2d\) has a forward pass of its own \(_conv_forward\)"),
        (_patched_at_the_end(), r"block \(ReLU\) has a forward pass of its own"),
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
