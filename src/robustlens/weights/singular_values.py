"""Projection of weights on a range of singular values."""

import torch
from torch import nn

from robustlens.errors import NumericsError
from robustlens.weights.matrices import layer_matrices


@torch.no_grad()
def bound_singular_values(model: nn.Module, low: float, high: float) -> None:
    """Clip the singular values of every layer's weight to [low, high]: the nearest matrix that has them so.

    With low = 1 / (1 + xi) and high = 1 + xi this is singular value bounding (Jia, Tao, Gao and Xu 2017,
    algorithm 1); with low = 0 it caps the spectral norm. Wen, Li and Jia 2020 use the former to compare
    strengths of adversarial training at the same capacity.

    A convolution counts as the matrix (outputs, inputs * kh * kw), as in that algorithm, and not as the
    operator on a feature map; `explain.spectrum` gives the values of both, these as those of operator
    "kernel". Attention's q, k and v are matrices of their own. BatchNorm rescales what comes
    after it: there the bound holds for the weights, and not for the function. (That paper bounds BatchNorm's
    scales as well; here they are free.)

    Args:
        model: the trained weights of its convolutions, linear layers and attention are clipped, in place;
            others (embeddings, recurrent layers, parameters of your own) stay as they are.
        low: smallest singular value allowed, >= 0.
        high: largest, >= low.

    Raises:
        ConfigError: there is no such weight, or one is made of other parameters (`layer_matrices`).
        NumericsError: a weight is not finite; no weight has been changed.
    """
    weights = layer_matrices(model)
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise NumericsError("capacity: a weight is NaN or infinite; lower the rate")
    for weight in weights:
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((u * s.clamp(low, high)) @ vh).view(weight.shape))
