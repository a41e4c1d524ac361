"""Wanted classes of a targeted attack, image by image."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.attacks.base import likely_classes
from robustlens.errors import ConfigError

LEAST_LIKELY: Literal["least-likely"] = "least-likely"


def checked_targets(targets: Any) -> tuple[int, ...] | Literal["least-likely"]:
    """Classes as an attack keeps them: whole numbers, or "least-likely".

    Raises:
        ConfigError: they are neither; one class for all images is written once for each.
    """
    if isinstance(targets, str):
        if targets == LEAST_LIKELY:
            return LEAST_LIKELY
        raise ConfigError(
            f"attack.targets: found {targets!r}, expected 'least-likely' or a class for each image"
        )
    classes = torch.as_tensor(targets) if isinstance(targets, Sequence | Tensor) else torch.tensor(targets)
    whole = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    if classes.ndim != 1 or not (whole or len(classes) == 0):
        kind = f"{str(classes.dtype).removeprefix('torch.')} of shape {tuple(classes.shape)}"
        raise ConfigError(f"attack.targets: found {kind}, expected whole numbers, one for each image")
    if len(classes) and int(classes.min()) < 0:
        raise ConfigError(f"attack.targets: found the class {int(classes.min())}, expected classes >= 0")
    return tuple(classes.tolist())


def wanted_classes(
    model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], targets: Sequence[int] | Tensor | str
) -> Int64[Tensor, " n"]:
    """The wanted class of each image; asks the model for its logits at x.

    Raises:
        ConfigError: there are not as many classes as images, or the model has fewer.
    """
    with torch.no_grad():
        logits = model(x).detach()
    count = logits.shape[1]
    if isinstance(targets, str):
        return likely_classes(logits, y, count - 1)[:, -1]
    if len(targets) != len(x):
        raise ConfigError(
            f"attack.targets: found {len(targets)} classes for {len(x)} images, expected one each"
        )
    wanted = torch.as_tensor(targets, dtype=torch.int64, device=x.device)
    if int(wanted.max()) >= count:
        raise ConfigError(
            f"attack.targets: found the class {int(wanted.max())}, expected 0 to {count - 1} of the model"
        )
    return wanted
