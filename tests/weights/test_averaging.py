"""The running average of the weights."""

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.errors import ConfigError


def test_the_running_average_follows_its_formula():
    model = nn.Linear(3, 2)
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for t in range(40):
        with torch.no_grad():
            model.weight += 0.1 * (t + 1)
        ema.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.average.weight, expected, rtol=1e-5, atol=1e-6)
    assert not ema.average.weight.requires_grad


def test_running_statistics_are_copied_whole():
    model = nn.BatchNorm1d(3)
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    model(torch.rand(8, 3))
    ema.update()
    for name, buffer in model.named_buffers():
        assert torch.equal(ema.average.get_buffer(name), buffer), name
    assert not ema.average.training


def test_an_expanded_buffer_is_followed():
    model = nn.Linear(2, 2)
    model.register_buffer("mean", torch.tensor(0.5).expand(3))
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    ema.update()
    model.mean = torch.tensor(0.25).expand(3)
    ema.update()
    assert ema.average.mean.tolist() == [0.25] * 3


@pytest.mark.parametrize("expanded", [False, True], ids=["transposed", "expanded"])
def test_a_buffer_of_several_modules_is_followed(expanded):
    table = torch.ones(2).expand(3, 2) if expanded else torch.rand(3, 2).t()
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for layer in model:
        layer.register_buffer("table", table)
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    if not expanded:
        table.mul_(2)
    ema.update()
    assert ema.average[0].table is ema.average[1].table
    assert torch.equal(ema.average[0].table, table)


@pytest.mark.parametrize("decay", [-0.5, 0.0, 1.0, 1.5, float("nan")])
def test_a_decay_outside_0_and_1_is_refused(decay):
    with pytest.raises(ConfigError, match=r"ema.decay: .*expected a number in \(0, 1\)"):
        rl.ExponentialMovingAverage(nn.Linear(2, 2), decay)
