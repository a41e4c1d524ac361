"""Jacobians against linear models, finite differences and autograd."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.small_models import Snapshot, everything, images
from robustlens.errors import DataError, ModelError, NumericsError
from robustlens.explain.jacobian import jacobian, summarize


def values_of(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.detach().double().numpy(), compute_uv=False)


@pytest.mark.parametrize("classes", [3, 30])  # fewer than pixels, and more
def test_a_linear_model_has_the_values_of_its_weight_everywhere(classes: int) -> None:
    layer = nn.Linear(12, classes)
    model = nn.Sequential(nn.Flatten(), layer).double()
    found = jacobian(model, torch.rand(5, 3, 2, 2, dtype=torch.float64), batch_size=2)["singular_values"]
    assert found.shape == (5, min(classes, 12))
    assert found.dtype == np.float64
    expected = values_of(layer.weight)
    np.testing.assert_allclose(found, np.tile(expected, (5, 1)), rtol=1e-12)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 5), nn.Softplus()
    ).double()


def test_a_network_has_the_values_of_finite_differences() -> None:
    model, x = network(), torch.rand(3, 2, 4, 4, dtype=torch.float64)
    found = jacobian(model, x)["singular_values"]
    step = 1e-6
    for image, values in zip(x, found, strict=True):
        moved = step * torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape)
        with torch.no_grad():
            columns = (model(image + moved) - model(image - moved)) / (2 * step)
        np.testing.assert_allclose(values, values_of(columns.T), rtol=1e-7)


def test_the_largest_value_bounds_every_small_move() -> None:
    model, x = network(), torch.rand(4, 2, 4, 4, dtype=torch.float64)
    largest = jacobian(model, x)["singular_values"][:, 0]
    with torch.no_grad():
        for _ in range(20):
            moves = torch.randn_like(x)
            moves *= 1e-6 / moves.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            gained = (model(x + moves) - model(x)).norm(dim=1).numpy() / 1e-6
            assert (gained <= largest * (1 + 1e-6)).all()


def test_batches_change_nothing_and_the_model_is_left_as_it_was() -> None:
    model, (x, _) = everything(), images(7)
    before = Snapshot(model)
    found = [jacobian(model, x, batch_size=size)["singular_values"] for size in (1, 3, 7)]
    before.assert_unchanged()
    assert not x.requires_grad
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], found[2], rtol=1e-4, atol=1e-6)


def test_large_matrices_are_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(7, 1, 4, 4)
    whole, sizes = jacobian(model, x)["singular_values"], []
    monkeypatch.setattr(sys.modules[jacobian.__module__], "_MOST_BYTES", 8 * 3 * 16 * 2)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    np.testing.assert_allclose(jacobian(model, x)["singular_values"], whole, rtol=1e-6)
    assert max(sizes) == 2
    sizes.clear()
    jacobian(model, x, batch_size=1)
    assert max(sizes) == 1


def test_a_logit_that_does_not_depend_on_the_image_adds_a_zero() -> None:
    class OneConstant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)

    found = jacobian(OneConstant(), torch.rand(2, 1, 2, 2))["singular_values"]
    np.testing.assert_allclose(found, [[2.0, 0.0]] * 2, atol=1e-6)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2].detach()


class Rooted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2].sqrt()


def test_what_has_no_jacobian_is_refused() -> None:
    with pytest.raises(ModelError, match="carry no gradient"):
        jacobian(Rounded(), torch.rand(2, 1, 2, 2))
    with pytest.raises(NumericsError, match="derivative that is NaN or infinite"):
        jacobian(Rooted(), torch.zeros(2, 1, 2, 2))
    with pytest.raises(DataError, match="0 images"):
        jacobian(network(), torch.rand(0, 2, 4, 4))


def test_a_summary_has_no_scale_of_its_own() -> None:
    values = np.array([[0.4, 0.3], [0.2, 0.0], [0.0, 0.0]])
    for scale in (1.0, 1000.0):
        found = summarize(scale * values)
        assert found["mean_stable_rank"] == pytest.approx((25 / 16 + 1) / 2)
        assert found["mean_largest"] == pytest.approx(0.2 * scale)


def test_a_summary_by_hand() -> None:
    found = summarize(np.array([[4.0, 3.0], [2.0, 0.0], [0.0, 0.0]]))
    assert found == pytest.approx(
        {
            "mean_largest": 2.0,
            "std_largest": np.sqrt(8 / 3),
            "mean_smallest": 1.0,
            "mean_frobenius": 7 / 3,
            "mean_stable_rank": (25 / 16 + 1) / 2,
        }
    )
    assert summarize(np.zeros((2, 3)))["mean_stable_rank"] is None
