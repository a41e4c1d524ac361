"""Gradients lie in memory as the maps do: what is done with tensors of two layouts takes several times as long."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustlens import models
from robustlens.models.flattening import AveragePixels
from robustlens.models.resnet import every_pixel
from robustlens.models.wide_resnet import wide_resnet

LAYOUTS = [torch.channels_last, torch.contiguous_format]


class MixedLayouts(TorchDispatchMode):
    """Notes every sum and every gradient of a ReLU whose maps lie in memory in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.mixed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        maps = [each for each in args if isinstance(each, Tensor) and each.ndim == 4]
        if str(func).startswith(("aten.threshold_backward", "aten.add")) and len(maps) == 2:
            self.seen += 1
            if maps[0].stride() != maps[1].stride():
                self.mixed.append(f"{func} of {tuple(maps[0].shape)}")
        return func(*args, **(kwargs or {}))


def mixed_in_pass(network: nn.Module, x: Tensor) -> list[str]:
    """What one pass for the gradient of the images does with maps of two layouts."""
    leaf, noticed = x.clone().requires_grad_(), MixedLayouts()
    with noticed:
        torch.autograd.grad(network(leaf).sum(), leaf)
    assert noticed.seen > 3
    return noticed.mixed


def registered(name: str, **options: Any) -> Callable[[], nn.Module]:
    return partial(models.get, name, num_classes=5, in_channels=3, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small-cnn": registered("small-cnn"),
    "small-cnn-bn": registered("small-cnn-bn"),
    "resnet8": registered("resnet8"),
    "resnet8, centred": registered("resnet8", centred=True),
    "resnet20": registered("resnet20"),
    "preactresnet18": registered("preactresnet18", width=8, final_norm=True),
    "wide resnet": lambda: nn.Sequential(*wide_resnet(10, 2, num_classes=5, in_channels=3).values()),
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fast_copy_keeps_its_maps_and_their_gradients_in_one_layout(name: str, precision: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 28, 28)
    copy = models.fast_copy(NETWORKS[name]().eval(), x, precision=precision)
    assert mixed_in_pass(copy, x) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_channels_first_keeps_its_maps_and_their_gradients_in_one_layout(name: str) -> None:
    assert mixed_in_pass(NETWORKS[name]().eval(), torch.rand(4, 3, 28, 28)) == []


def test_a_slice_of_a_map_with_channels_last_would_be_noticed() -> None:
    """As the shortcut of a residual network is often written."""

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
            self.last = nn.Conv2d(3, 3, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).relu()
            return self.last(x) + x[:, :, ::2, ::2]

    network: Any = Shortcut()
    network.to(memory_format=torch.channels_last)
    mixed = mixed_in_pass(network, torch.rand(2, 3, 8, 8))
    assert mixed[-2:] == [
        "aten.add.Tensor of (2, 3, 8, 8)",
        "aten.threshold_backward.default of (2, 3, 8, 8)",
    ]


# -- every second pixel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 5), (1, 1, 4, 4), (2, 4, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_pixel_is_a_slice(shape: tuple[int, ...], stride: int, layout: torch.memory_format) -> None:
    x = torch.arange(float(math.prod(shape))).view(shape).to(memory_format=layout).requires_grad_()
    kept = every_pixel(stride, x)
    assert torch.equal(kept, x[:, :, ::stride, ::stride])
    weight = torch.rand(kept.shape).to(memory_format=layout)
    (gradient,) = torch.autograd.grad((kept * weight).sum(), x)
    wanted = torch.zeros(shape)
    wanted[:, :, ::stride, ::stride] = weight
    assert torch.equal(gradient, wanted)
    assert gradient.is_contiguous(memory_format=layout)


# -- maps of one pixel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 1, 1), (3, 5, 4), (0, 3, 4, 4)])
def test_averaged_pixels_are_those_of_the_layer(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    average, layer = AveragePixels()(x), nn.AdaptiveAvgPool2d(1)(x)
    assert torch.allclose(average, layer, rtol=1e-14, atol=0)
    assert average.shape == layer.shape
    weight = torch.rand(layer.shape, dtype=torch.float64)
    one, other = (torch.autograd.grad((each * weight).sum(), x)[0] for each in (average, layer))
    assert torch.allclose(one, other, rtol=1e-14, atol=0)


def test_the_gradient_of_averaged_pixels_has_channels_last() -> None:
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(AveragePixels()(x).square().sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


class Halved(nn.AdaptiveAvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AdaptiveAvgPool2d((1, 1)), True),
        (nn.AdaptiveAvgPool2d(2), False),
        (nn.AdaptiveAvgPool2d((1, 2)), False),
        (nn.AdaptiveAvgPool2d((1, None)), False),
        (nn.AdaptiveMaxPool2d(1), False),
        (nn.AvgPool2d(1), False),
        (Halved(1), False),
    ],
)
def test_only_a_layer_that_averages_whole_maps_is_taken_for_one(layer: nn.Module, fits: bool) -> None:
    assert AveragePixels.fits(layer) is fits


def test_a_network_that_asks_its_pooling_layer_for_its_size_is_copied_without_the_change() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            assert self.pool.output_size == 1
            return self.fc(self.pool(self.conv(x).relu()).flatten(1))

    model, x = Asking().eval(), torch.rand(4, 3, 8, 8)
    copy = models.fast_copy(model, x)
    assert copy is not model
    assert torch.allclose(copy(x), model(x), atol=1e-6)
