"""Hooks see each call of the layers that they are on, and are gone afterwards."""

import pytest
import torch
from torch import Tensor, nn

from robustlens.models.hooks import hooked, matrix_layers, reading


class Named(nn.Module):
    """Calls its layer by keyword, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.same = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=self.layer(input=x))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_every_call_is_read_by_position_and_by_keyword() -> None:
    model, x = Named(), torch.rand(3, 2)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    layers = matrix_layers(model).values()
    with (
        reading(layers, lambda layer, tensor: inputs.append(tensor)),
        hooked(layers, after=lambda module, args, named, output: outputs.append(output)),
    ):
        y = model(x)
    assert inputs[0] is x
    assert inputs[1] is outputs[0]
    assert outputs[1] is y
    assert hooks_of(model) == 0


def test_what_is_read_stays_as_it_is_and_hooks_go_where_a_network_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
    with pytest.raises(RuntimeError), reading(model, lambda layer, tensor: 7):  # type: ignore[arg-type] # gives what no reader may
        model(torch.rand(3, 2))
    assert hooks_of(model) == 0


def test_matrix_layers_are_named_once() -> None:
    assert list(matrix_layers(Named())) == ["layer"]
    assert list(matrix_layers(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(1, 1)))) == ["0", "2"]
