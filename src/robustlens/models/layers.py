"""Layers: parts that architectures share, their initial weights, and what a layer may be taken for."""

from typing import Literal, TypeGuard, TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)

NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
"""Layers that rescale what they read by its own statistics: no linear maps, with weights or without."""


def is_exactly(module: nn.Module, *kinds: type[_Module]) -> TypeGuard[_Module]:
    """Whether it is of one of these classes and computes what they compute.

    A subclass, or one with a parametrization or a forward pass of its own, may do something else.
    """
    return type(module) in kinds and "forward" not in vars(module)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by `stride`; before a BatchNorm it needs no bias."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


def head(features: int, num_classes: int) -> dict[str, nn.Module]:
    """Global average pooling and a linear classifier: any input size will do."""
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(features, num_classes),
    }


def kaiming(layers: dict[str, nn.Module], mode: Literal["fan_in", "fan_out"]) -> dict[str, nn.Module]:
    """Start all weights as He et al. 2015 ("Delving deep into rectifiers", eq. 10 and 14); returns `layers`.

    Weights of a convolution are normal with variance 2 / fan, where the fan counts inputs (which keeps the
    scale of activations) or outputs (which keeps that of gradients). Linear layers always count inputs: with
    the few outputs of a classifier the other choice gives huge logits. Biases start at zero. Weights without
    memory stay so: torch would import its compiler to draw them.
    """
    for layer in layers.values():
        for module in layer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
                fan = mode if isinstance(module, nn.Conv2d) else "fan_in"
                nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return layers
