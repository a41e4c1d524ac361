"""Starting from other weights: a head that has several names."""

import torch
from torch import nn

from robustlens.models.start import start_from


def _network(classes: int) -> nn.Module:
    """The last layer is `fc` and `head`, as where a model is adapted to code that asks for the other name."""
    model = nn.Sequential()
    model.add_module("body", nn.Linear(4, 5))
    model.add_module("fc", nn.Linear(5, classes))
    model.head = model.fc
    return model


def test_a_new_head_is_left_as_it_is_under_each_of_its_names():
    torch.manual_seed(0)
    for classes in (3, 2):
        model, other = _network(3), _network(classes)
        own = model.fc.weight.detach().clone()
        start_from(model, other, new_head=True)
        assert torch.equal(model.fc.weight, own)
        assert torch.equal(model.body.weight, other.body.weight)
