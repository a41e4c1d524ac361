"""Every function on images refuses in one line what `rl.evaluate` refuses, and takes what it takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens.errors import DataError, ModelError

THREAT = rl.ThreatModel("Linf", 0.05)
FEW = {"lanczos_steps": 3, "draws": 1, "eigenvalues": 1}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "activations": lambda model, x, y: rl.explain.activations(model, x),
    "jacobian": lambda model, x, y: rl.explain.jacobian(model, x),
    "feature_changes": lambda model, x, y: rl.explain.feature_changes(model, x, x),
    "gradients": rl.explain.gradients,
    "margins": rl.explain.margins,
    "smoothness": lambda model, x, y: rl.explain.smoothness(model, x, y, THREAT, steps=1),
    "landscape": lambda model, x, y: rl.explain.landscape(model, x, y, THREAT, steps=1, alphas=(0.0,)),
    "plane": lambda model, x, y: rl.explain.plane(model, x, y, THREAT, steps=1, alphas=(0.0,)),
    "input_landscape": lambda model, x, y: rl.explain.input_landscape(model, x, y, THREAT, radii=(0.0,)),
    "flatness": lambda model, x, y: rl.explain.flatness(model, x, y, THREAT, steps=1, draws=1, ascents=1),
    "curvature": lambda model, x, y: rl.explain.curvature(model, x, y, THREAT, steps=1, **FEW),
    "sharpness": lambda model, x, y: rl.explain.sharpness(model, x, y, THREAT, steps=1),
    "instance_margins": lambda model, x, y: rl.explain.instance_margins(model, x, y, steps=4),
    "bound": lambda model, x, y: rl.explain.bound(model, x, y, x, y, eps=0.1),
}
UNLABELLED = ("activations", "jacobian", "feature_changes")
functions = pytest.mark.parametrize("name", FUNCTIONS)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def data(n: int = 20) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 4, 4), torch.arange(n) % 3


def first_array(found: Any) -> np.ndarray:
    """One array of any function's result."""
    if isinstance(found, dict):
        return np.asarray(next(iter(found.values())))
    return np.asarray(found.upper if hasattr(found, "upper") else found.ramp_train)


@functions
def test_images_that_are_none_are_refused(name: str) -> None:
    model, (x, y) = network(), data()
    broken = x.clone()
    broken[3, 0, 1, 2] = torch.nan
    for images, message in (
        (broken, "NaN or infinite pixels in 1 of 20 images"),
        (255 * x, "divide by 255"),
        ((255 * x).byte(), "found uint8 pixels"),
        (x[:0], "found 0 images"),
        (x[0, 0, 0], "found images of shape"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            FUNCTIONS[name](model, images, y[: len(images)])
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"fails on images of shape \(\d+, 1, 3, 3\)"):
        FUNCTIONS[name](model, x[..., :3, :3], y)


@functions
def test_labels_and_answers_that_are_none_are_refused(name: str) -> None:
    model, (x, y) = network(), data()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x)}

    with pytest.raises(ModelError, match="returned dict with logits"):
        FUNCTIONS[name](Named(), x, y)
    if name in UNLABELLED:
        return
    for labels, error, message in (
        (torch.eye(3)[y], DataError, "one-hot"),
        (y.float(), DataError, "float32 labels"),
        (y.bool(), DataError, "bool labels"),
        (y[:-1], DataError, "20 images and 19 labels"),
        (y + 1, ModelError, "returned 3 logits an image, expected at least 4"),
    ):
        with pytest.raises(error, match=message):
            FUNCTIONS[name](model, x, labels)


@functions
def test_arrays_and_other_types_give_the_same(name: str) -> None:
    model, (x, y) = network(), data()
    x[3, 0, 1, 2] = 0.0
    dusty = x.clone()
    dusty[3, 0, 1, 2] = -2.98e-8
    expected = first_array(FUNCTIONS[name](model, x, y))
    for images, labels in (
        (x.numpy(), y.numpy().astype(np.uint8)),
        (x.double(), y.int()),
        (dusty, y),
    ):
        np.testing.assert_allclose(
            first_array(FUNCTIONS[name](model, images, labels)), expected, rtol=1e-3, atol=1e-4
        )
    assert first_array(FUNCTIONS[name](model, x.half(), y)).shape == expected.shape


def test_points_that_are_not_finite_cover_nothing() -> None:
    points = torch.rand(30, 3)
    points[2, 1] = torch.inf
    for estimate in (rl.explain.covering, rl.explain.intrinsic_dimension):
        with pytest.raises(DataError, match="covering: found NaN or infinite pixels in 1 of 30"):
            estimate(points)
        assert estimate(points[3:].numpy())
