"""Losses around images, against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.two_classes import data, linear, sides
from robustlens import noise
from robustlens.errors import ConfigError, DataError
from robustlens.explain import input_landscape


@pytest.mark.parametrize("towards", ["gradient", "attack"])
def test_the_input_landscape_of_a_linear_model_equals_its_formula(towards):
    """The margin falls by a eps ||gap||_1 along the gradient; PGD goes the same way to the ball's corner."""
    model, (x, y) = linear(), data()
    threat = rl.ThreatModel("Linf", 0.07)
    found = input_landscape(model, x, y, threat, radii=(-1, 0, 2), towards=towards, batch_size=5)
    gap = (model.weight[0] - model.weight[1]).detach()
    random = 0.07 * noise.normal(noise.keys(x, 0), x).sign()
    for row, a in enumerate((-1, 0, 2)):
        for column, b in enumerate((-1, 0, 2)):
            bias = (model.bias[0] - model.bias[1]).detach()
            margin = sides(y) * ((x + b * random) @ gap + bias) - a * 0.07 * gap.abs().sum()
            np.testing.assert_allclose(found["loss"][row, column], F.softplus(-margin).numpy(), rtol=1e-5)
            assert found["error"][row, column].tolist() == (margin < 0).tolist()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_both_directions_of_the_input_landscape_are_eps_long(norm: str) -> None:
    class Recording(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach())
            return super().forward(x)

    seen: list[torch.Tensor] = []
    torch.manual_seed(0)
    model, (x, y) = Recording(10, 2).double(), data()
    threat = rl.ThreatModel(norm, 0.3)
    input_landscape(model, x, y, threat, radii=(0, 1))
    origin, random, adversarial, _ = seen[-4:]
    assert torch.equal(origin, x)
    for moved in (random, adversarial):
        np.testing.assert_allclose(threat.distance(moved, x).numpy(), 0.3, rtol=1e-6)
    assert not torch.equal(random, adversarial)


def test_wrong_arguments_are_refused():
    model, (x, y), threat = linear(), data(), rl.ThreatModel("Linf", 0.1)
    with pytest.raises(DataError, match="0 images"):
        input_landscape(model, x[:0], y[:0], threat)
    with pytest.raises(ConfigError, match="towards 'there'"):
        input_landscape(model, x, y, threat, towards="there")
    with pytest.raises(ConfigError, match="radius"):
        input_landscape(model, x, y, rl.ThreatModel("Linf", float("inf")))
