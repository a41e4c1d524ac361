"""Between an image and its nearest boundary point: two steps that the bound of Wen et al. takes, measured.

Assumption 3.1: the margin falls all the way. And the step from feature to instance margin: the network's
Jacobian stretches the way there at least as much as the layers' smallest singular values say.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.errors import ConfigError
from robustlens.explain.bound.last_layer import LastLayer
from robustlens.explain.derivatives import jvp
from robustlens.explain.margins import logits_of
from robustlens.models import device_of, inference

ROUNDING = 1e-5
"""Rises of the margin below this share of the largest one on the segment are rounding."""


def margin_paths(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    nearest: Float[Tensor, "n ..."],
    *,
    points: int = 20,
    batch_size: int = 256,
) -> Float[np.ndarray, "n places"]:
    """Margin f_y - max_{i != y} f_i on the segment from each image to its boundary point, both included.

    Raises:
        ConfigError: `points` below 1.
    """
    if points < 1:
        raise ConfigError(f"geometry.points: found {points}, expected at least 1")
    if len(x) == 0:
        return np.empty((0, points + 1), np.float32)
    labels, start, end = y.cpu(), x.detach().cpu(), nearest.cpu()
    shares = torch.linspace(0, 1, points + 1).tolist()
    margins = [
        -losses.margin(logits_of(model, torch.lerp(start, end, share), batch_size), labels)
        for share in shares
    ]
    return torch.stack(margins, 1).numpy()


def violations(paths: Float[np.ndarray, "n places"]) -> dict[str, float | None]:
    """Frequency with which assumption 3.1 fails: shares of paths and of steps on which the margin rises.

    `largest` is the largest rise of a single step, as a share of the largest absolute margin on its path; a
    rise below 1e-5 of that counts as rounding. None where there are no paths.
    """
    if len(paths) == 0:
        return {"paths": None, "steps": None, "largest": None}
    scale = np.abs(paths).max(1, keepdims=True)
    rise = np.diff(paths, axis=1) / np.where(scale > 0, scale, 1.0)
    rises = rise > ROUNDING
    return {
        "paths": float(rises.any(1).mean()),
        "steps": float(rises.mean()),
        "largest": float(rise.max(initial=0.0)),
    }


def stretch(
    model: nn.Module, x: Float[Tensor, "n ..."], nearest: Float[Tensor, "n ..."], *, batch_size: int = 256
) -> dict[str, Float[np.ndarray, " n"]]:
    """Factor by which the way to the boundary is stretched in the features, read by the last linear layer.

    A BatchNorm that the last layer reads through an activation counts with that layer, as in `bound`: the
    features are those without its factors.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images.
        nearest: their boundary points, other than x.
        batch_size: changes speed, not results (but for rounding).

    Returns:
        `at_x`: ||J(x) delta|| / ||delta|| with delta = nearest - x and J the Jacobian of the features phi.
        `on_the_way`: ||phi(nearest) - phi(x)|| / ||delta||, the same with the mean of J over the segment,
        which turns instance margins into feature margins. Wen et al. 2020 put the product of the layers'
        smallest singular values below both.

    Raises:
        ModelError: the last layer called is not linear, or is called more than once.
    """
    if len(x) == 0:
        return {"at_x": np.empty(0, np.float32), "on_the_way": np.empty(0, np.float32)}
    at_x, on_the_way = [], []
    with inference(model):
        features, device = LastLayer.of(model, x[:1]).features(model), device_of(model)
        for start, end in zip(x.split(batch_size), nearest.split(batch_size), strict=True):
            start, delta = start.to(device), (end.to(start) - start).to(device)
            before, moved = jvp(features, start, delta)
            size = _norm(delta)
            at_x.append(_norm(moved) / size)
            on_the_way.append(_norm(features(start + delta) - before) / size)
    return {"at_x": _joined(at_x), "on_the_way": _joined(on_the_way)}


def _norm(values: Tensor) -> Tensor:
    """L2 norm of each image's values, in float64."""
    return torch.linalg.vector_norm(values.double().flatten(1), dim=1)


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()
