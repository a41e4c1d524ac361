"""Hessians against autograd's, and what relative units stand for."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from helpers.relu_networks import data, network
from robustlens.errors import ConfigError
from robustlens.explain.hessian import Hessian, filter_units
from robustlens.explain.landscape import filter_normalised


def matrix_of(operator):
    identity = torch.eye(operator.size, dtype=operator.dtype)
    return torch.stack([operator.matvec(column) for column in identity], 1)


def dense_hessian(model, x, y, temperature=1.0):
    """By autograd, on the weights of both linear layers as one vector."""
    shapes = [model[0].weight.shape, model[2].weight.shape]

    def loss(flat):
        first, second = (part.view(shape) for part, shape in zip(flat.split([30, 15]), shapes, strict=True))
        hidden = F.relu(F.linear(x, first, model[0].bias))
        return F.cross_entropy(F.linear(hidden, second, model[2].bias) / temperature, y)

    flat = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("batch_size", [12, 5])
def test_the_hessian_is_that_of_autograd(inplace, batch_size):
    model, (x, y) = network(inplace), data()
    found = matrix_of(Hessian(model, x, y, batch_size=batch_size, temperature=0.7))
    torch.testing.assert_close(found, dense_hessian(model, x, y, 0.7), rtol=0, atol=1e-12)


def test_units_scale_both_sides():
    model, (x, y) = network(), data()
    units = filter_units(model)
    # A filter of a linear layer is a row.
    torch.testing.assert_close(units["0.weight"][:, 0] ** 2, model[0].weight.detach().square().mean(1))
    d = torch.cat([units["0.weight"].flatten(), units["2.weight"].flatten()])
    wanted = d[:, None] * dense_hessian(model, x, y) * d
    torch.testing.assert_close(matrix_of(Hessian(model, x, y, units=units)), wanted, rtol=0, atol=1e-12)


def test_the_relative_trace_is_the_mean_second_derivative_along_filter_normalised_directions():
    model, (x, y) = network(), data()
    operator, relative = Hessian(model, x, y), Hessian(model, x, y, units=filter_units(model))
    bends = []
    for draw in range(3000):
        d = filter_normalised(model, torch.Generator().manual_seed(draw))
        flat = torch.cat([d["0.weight"].flatten(), d["2.weight"].flatten()])
        bends.append(flat)
    directions, hessian = torch.stack(bends), matrix_of(operator)
    along = ((directions @ hessian) * directions).sum(1)
    error = along.std() / len(along) ** 0.5
    assert abs(along.mean() - matrix_of(relative).trace()) < 4 * error


def test_a_hessian_of_nothing_is_refused():
    model, (x, y) = network(), data()
    with pytest.raises(ConfigError, match="0 images"):
        Hessian(model, x[:0], y[:0])


@pytest.mark.parametrize("forward", [True, False])
def test_each_images_own_hessian_along_a_vector(forward, monkeypatch):
    """By forward differentiation, and image by image where an operation has none."""
    model, (x, y) = network(), data()
    units = filter_units(model)
    operator = Hessian(model, x, y, units=units, temperature=0.7, batch_size=5)
    if not forward:
        monkeypatch.setattr(operator, "_second_derivatives", _no_forward_derivative)
    vector = torch.randn(operator.size, dtype=torch.float64)
    d = torch.cat([units["0.weight"].flatten(), units["2.weight"].flatten()]) * vector
    wanted = torch.stack(
        [d @ dense_hessian(model, x[i : i + 1], y[i : i + 1], 0.7) @ d for i in range(len(x))]
    )
    found = operator.by_image(vector)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.mean(), vector @ operator.matvec(vector), rtol=0, atol=1e-11)


def _no_forward_derivative(*_):
    raise NotImplementedError("Trying to use forward AD with an operation that does not support it")


class _Attending(torch.nn.Module):
    """Attention by the fused kernel, which alone has no second derivative."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.first(x)
        return self.last(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


def test_networks_with_attention_have_a_hessian():
    model, x, y = _Attending().eval(), torch.rand(4, 5, 4), torch.arange(4) % 3
    operator = Hessian(model, x, y)
    vector = torch.randn(operator.size)
    torch.testing.assert_close(
        operator.by_image(vector).mean(), vector @ operator.matvec(vector), rtol=1e-3, atol=1e-5
    )
