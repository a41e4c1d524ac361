"""Features of a network, which its last linear layer reads, and how far they set the classes apart."""

from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models import device_of, inference
from robustlens.models.hooks import reading
from robustlens.models.inputs import Readable
from robustlens.models.last_layer import last_linear


def logits_and_features(
    model: nn.Module, x: Readable, batch_size: int = 256
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"] | None, str]:
    """Logits, and what the last linear layer reads, from one pass in eval mode; on the CPU, in float32.

    The features are None where they are no vector for each image, and then the last entry is the reason.
    """
    layers, why = [], ""
    try:
        layers.append(model.get_submodule(last_linear(model, x[:1], where="features")))
    except ModelError as error:
        why = str(error)
    features: list[Tensor] = []
    with inference(model), reading(layers, lambda _, tensor: features.append(tensor.float().cpu())):
        device = device_of(model)
        logits = [model(batch.to(device)).float().cpu() for batch in x.split(batch_size)]
    if not why and any(
        part.ndim != 2 or len(part) != len(own) for part, own in zip_longest(features, logits)
    ):
        why = "features: the last linear layer does not read one vector for each image"
    return torch.cat(logits), None if why else torch.cat(features), why


def scatter(features: Float[Tensor, "n d"], y: Int64[Tensor, " n"]) -> dict[str, Float64[np.ndarray, " n"]]:
    """Squared distances of each image's features to the mean of its class, and to the mean of all.

    Their means over images are the traces of the within-class and of the total scatter matrix; the difference
    of the two is that of the between-class one (Fukunaga 1990, section 10.2). See `between_over_within`.

    Returns:
        within, total: (n,), float64.
    """
    points = features.double()
    _, place, counts = y.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), points.shape[1], dtype=points.dtype).index_add_(0, place, points)
    own = (sums / counts[:, None])[place]
    return {
        "within": (points - own).square().sum(1).numpy(),
        "total": (points - points.mean(0)).square().sum(1).numpy(),
    }


def between_over_within(within: np.ndarray, total: np.ndarray) -> float | None:
    """Between-class over within-class scatter: the trace ratio; None where no class has any scatter.

    >>> between_over_within(np.array([1.0, 1.0]), np.array([4.0, 4.0]))
    3.0
    """
    inside = float(within.mean())
    return (float(total.mean()) - inside) / inside if inside > 0 else None
