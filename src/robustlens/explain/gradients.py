"""Input gradients, image by image: how sparse they are, and how close to what the image shows."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import NumericsError
from robustlens.explain.derivatives import log_odds_gradient
from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.models import device_of
from robustlens.models.inputs import Images, Labels, checked

DARK = 0.1
"""Least share of black pixels, over all images, with which a background is dark."""
ROUNDING = 1e-9
"""A row whose deviations from its mean are below this share of it is constant."""
NOT_SPATIAL = "the inputs have no side of two values or more, so no pixel has a neighbour"


def gradients(model: nn.Module, x: Images, y: Labels, *, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Sparsity of the gradient of the loss by each image, and its nearness to what the image shows.

    The gradient is that of the cross entropy, up to a factor of each image (`log_odds_gradient`); nothing
    here depends on such a factor. One forward and one backward pass.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images (n, channels, sides ...), or inputs of any other shape (n, ...).
        y: labels.
        batch_size: changes speed and memory, not results (but for rounding).

    Returns:
        gini, hoyer: (n,), sparsity in [0, 1], see `gini_index` and `hoyer_sparsity`. contrast: (n,), the
        correlation of the gradient's size with the contrast of the image, see `contrast_alignment`.
        foreground: (n,), see `foreground_excess`; not there where fewer than a tenth of all pixels are black.
        Neither of the two is there for inputs without sides.

    Raises:
        DataError: images or labels do not fit.
        ModelError: the model does not return logits (n, classes), or these carry no gradient.
        NumericsError: a derivative is NaN or infinite.
    """
    x, y = checked(model, x, y, where="gradients")
    device = device_of(model)
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    parts = [_of_batch(model, images.to(device), labels.to(device)) for images, labels in pairs]
    return _joined(parts)


def gini_index(values: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Gini index of the absolute values of each row: 0 where all are equal, 1 - 1/d where one is not 0.

    `1 - 2 sum_k (|v|_k / sum |v|) (d - k + 1/2) / d` over the d absolute values in ascending order (Hurley
    and Rickard 2009, "Comparing measures of sparsity"). 0 where all values are 0.

    >>> gini_index(torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0]])).tolist()
    [0.0, 0.75]
    """
    size = values.double().abs().flatten(1).sort(1).values
    d, total = size.shape[1], size.sum(1)
    weights = (d - torch.arange(1, d + 1, device=size.device, dtype=size.dtype) + 0.5) / d
    return torch.where(total > 0, 1 - 2 * (size @ weights) / total, 0.0).clamp(0, 1)


def hoyer_sparsity(values: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Sparsity of Hoyer 2004 of each row: 0 where all sizes are equal, 1 where one value is not 0.

    `(sqrt(d) - ||v||_1 / ||v||_2) / (sqrt(d) - 1)` over d values. 0 where all values are 0, or d is 1.

    >>> hoyer_sparsity(torch.tensor([[2.0, -2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 5.0]])).tolist()
    [0.0, 1.0]
    """
    rows = values.double().flatten(1)
    root = rows.shape[1] ** 0.5
    length = torch.linalg.vector_norm(rows, dim=1)
    if root == 1:
        return torch.zeros_like(length)
    return torch.where(length > 0, (root - rows.abs().sum(1) / length) / (root - 1), 0.0).clamp(0, 1)


def contrast_alignment(
    gradient: Float[Tensor, "n c *sides"], x: Float[Tensor, "n c *sides"]
) -> Float[Tensor, " n"]:
    """Correlation, over the pixels of each image, of the gradient's size with the contrast of the image.

    The size at a pixel is the L2 norm over channels; the contrast there that of the differences between its
    neighbours, over channels and sides (ours). 0 where either is the same at all pixels.
    """
    sides = _sides(x)
    size = torch.linalg.vector_norm(gradient.double(), dim=1).flatten(1)
    slopes = torch.cat(torch.gradient(x.double(), dim=sides), dim=1)
    contrast = torch.linalg.vector_norm(slopes, dim=1).flatten(1)
    return _correlation(size, contrast)


def foreground_excess(
    gradient: Float[Tensor, "n c *sides"], x: Float[Tensor, "n c *sides"]
) -> Float[Tensor, " n"]:
    """Share of the gradient that lies on pixels that are not black, minus the share of these pixels (ours).

    The share of the sum over pixels of the L2 norm over channels. Where all of it lies on the object, this is
    the share of black pixels; 0 where the gradient is spread alike over both, or is 0.
    """
    size = torch.linalg.vector_norm(gradient.double(), dim=1).flatten(1)
    shown = (~_black(x)).double()
    total = size.sum(1)
    return torch.where(total > 0, (size * shown).sum(1) / total - shown.mean(1), 0.0)


def measure_gradients(subject: Subject, *, examples: Count = 1000) -> Measurement:
    """Sparsity and nearness to the object of the input gradients of the first `examples` test images."""
    index, y = subject.index("test", examples), subject.test.labels[:examples]
    device, size = device_of(subject.model), min(64, subject.batch_size)
    parts = []
    for start in range(0, len(y), size):
        rows = slice(start, min(start + size, len(y)))
        parts.append(_of_batch(subject.model, subject.test.x(rows).to(device), y[rows].to(device)))
    arrays = _joined(parts)
    value = {f"mean_{name}": float(array.mean()) for name, array in arrays.items()}
    value |= {f"std_{name}": float(array.std()) for name, array in arrays.items()}
    why = {} if "contrast" in arrays else {"contrast_missing": NOT_SPATIAL}
    return Measurement(
        {"examples": len(y), **value, **why},
        unit="Gini index and Hoyer's sparsity in [0, 1]; correlation; share",
        what="Sparsity of the gradient of the loss by each test image, and its nearness to the object shown.",
        source="Chalasani et al. 2020 (Gini index); Bhusal, Alam and Rastogi 2026; nearness is ours",
        conditions={"split": "test", "examples": len(y)},
        arrays={**{f"test_{name}": array for name, array in arrays.items()}, "test_index": index},
    )


def _of_batch(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    """The numbers of a batch, and its share of black pixels, image by image."""
    gradient = log_odds_gradient(model, x, y)
    if not bool(gradient.isfinite().all()):
        raise NumericsError(
            "gradients: found a derivative that is NaN or infinite, expected finite numbers; the network has "
            "a root, logarithm or division at the edge of its domain"
        )
    gradient, x = gradient.cpu(), x.detach().cpu()
    numbers = {"gini": gini_index(gradient), "hoyer": hoyer_sparsity(gradient)}
    if _sides(x):
        numbers["contrast"] = contrast_alignment(gradient, x)
        numbers["foreground"] = foreground_excess(gradient, x)
        numbers["black"] = _black(x).double().mean(1)
    return {name: values.float().numpy() for name, values in numbers.items()}


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The numbers of all batches; `foreground` where the background is dark."""
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "black" in arrays and float(arrays.pop("black").mean()) < DARK:
        del arrays["foreground"]
    return arrays


def _sides(x: Tensor) -> tuple[int, ...]:
    """The dimensions along which a pixel has neighbours: beyond the channels, of two values or more."""
    return tuple(dim for dim in range(2, x.ndim) if x.shape[dim] > 1)


def _black(x: Float[Tensor, "n c *sides"]) -> Tensor:
    """Mask (n, pixels) of those that are 0 in every channel."""
    return (x == 0).all(1).flatten(1)


def _correlation(one: Float[Tensor, "n p"], other: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Pearson's correlation of each pair of rows; 0 where a row is constant."""
    a, b = (values - values.mean(1, keepdim=True) for values in (one, other))
    lengths = [torch.linalg.vector_norm(values, dim=1) for values in (a, b, one, other)]
    varies = (lengths[0] > ROUNDING * lengths[2]) & (lengths[1] > ROUNDING * lengths[3])
    return torch.where(varies, (a * b).sum(1) / (lengths[0] * lengths[1]), 0.0).clamp(-1, 1)
