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


def test_a_decay_of_one_is_refused():
    with pytest.raises(ConfigError, match="decay"):
        rl.ExponentialMovingAverage(nn.Linear(2, 2), 1.0)
