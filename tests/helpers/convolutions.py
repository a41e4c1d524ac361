"""Convolutions in float64, and the singular values of their dense matrices."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlens.models.hooks import Convolutional, Transposed
from robustlens.spectra.convolution import Convolution
from robustlens.spectra.layers import Layer, Size


def conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int], seed: int = 0, **options: Any
) -> nn.Conv2d:
    """A convolution with random weights."""
    # Layers are made when tests are collected: their weights are their own, whatever came before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(inputs, outputs, kernel, dtype=torch.float64, **options)


def dense_operator(layer: Convolutional, size: Size, operator: str = "circular") -> Tensor:
    """The matrix of a convolution on a map of that size: rows are outputs, columns inputs, both flattened."""
    matrix = Convolution.of(Layer(layer, size), operator).matrix()
    return matrix.T if isinstance(layer, Transposed) else matrix


def dense_values(matrix: Tensor) -> np.ndarray:
    """Singular values of a matrix, descending."""
    return np.linalg.svd(matrix.detach().numpy(), compute_uv=False)


def zero_padded(layer: nn.Conv2d, size: tuple[int, int]) -> Convolution:
    """The layer as it is, on a map of that size."""
    return Convolution.of(Layer(layer, size), "zero")


def zero_padded_values(layer: nn.Conv2d, size: tuple[int, int]) -> np.ndarray:
    """Its singular values, by the dense matrix."""
    return dense_values(dense_operator(layer, size, "zero"))


CONVOLUTIONS = [
    (conv(3, 4, 3, padding=1), (7, 6)),
    (conv(4, 3, 3, padding=1), (7, 6)),
    (conv(3, 3, 3, padding=1), (6, 7)),
    (conv(2, 5, 3, padding=1, stride=2), (9, 8)),
    (conv(2, 9, 3, padding=1, stride=2), (9, 8)),
    (conv(3, 2, 4, padding=1, stride=2), (8, 8)),
    (conv(3, 3, 3, padding=2, dilation=2), (8, 8)),
    (conv(2, 4, 3, padding=1, stride=(1, 2), dilation=(2, 1)), (8, 7)),
    (conv(4, 6, 3, padding=1, groups=2), (6, 6)),
    (conv(4, 4, 3, padding=1, groups=4), (6, 6)),
    (conv(3, 3, 1), (5, 5)),
    (conv(3, 4, 1, stride=2), (7, 6)),
    (conv(3, 3, 3), (8, 8)),
    (conv(5, 4, 3, padding=2), (6, 6)),  # more rows than columns only by its borders
    (conv(3, 20, 3, stride=3), (8, 8)),
    (conv(3, 3, (4, 2), padding="same"), (6, 6)),
    (conv(2, 2, 5, padding=2), (3, 9)),
]
