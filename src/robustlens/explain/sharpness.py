"""Sharpness of the loss at each image, clean and as an attack grows, beside the confidence of the network.

For the last linear layer, whose row of class k is w_k and which reads the features phi(x), the Hessian of an
image's cross entropy by the weights is (diag p - p p^T) x phi phi^T. Its trace with weights measured against
themselves, the relative flatness of Petzka et al. 2021, has a closed form that needs no label:

    kappa(x) = ||phi(x)||^2 sum_k p_k ||w_k - sum_j p_j w_j||^2

No factor that moves between the features and the weights changes it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import PGD
from robustlens.config import widest_radius
from robustlens.errors import ConfigError, ModelError
from robustlens.explain.margins import attacked_images
from robustlens.explain.measure import Count, Measurement, Radius, SplitNames, Subject
from robustlens.models import device_of, inference
from robustlens.models.inputs import Images, Labels, checked
from robustlens.models.last_layer import agree, forward_reading, last_linear
from robustlens.progress import Event, Listener, silent
from robustlens.threat import ThreatModel

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Radii of the attack, as multiples of the threat's."""


def sharpness(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    factors: Sequence[float] = FACTORS,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
    progress: Listener = silent,
) -> dict[str, np.ndarray]:
    """Relative sharpness of the last layer at every image, and at its adversarial images.

    After Walter et al. 2025 (arXiv 2510.14231), who find that adversarial images lie where the loss is flat
    and the network confidently wrong. Differs: every radius is attacked by a PGD of its own, where they
    follow the steps of one attack; values are of single images.

    Args:
        model: evaluated in eval mode, and left as it was; its logits come from a linear layer.
        x: images.
        y: labels.
        threat: of the attack, whose radius `factors` multiply.
        factors: multiples of the radius, at least 0; 0, the clean images, is added where it is missing, and
            a radius that would reach any image is shortened to the largest that does not.
        steps: of PGD on cross entropy at each radius.
        batch_size: changes speed, not results.
        seed: of the attack's random starts.
        progress: hears an event at every radius.

    Returns:
        radius: (k,) ascending, 0 first. sharpness: (k, n) kappa, at least 0. confidence: (k, n) the largest
        probability. wrong: (k, n) whether the prediction is. loss: (k, n) cross entropy in nats.

    Raises:
        ConfigError: a factor is negative. DataError: images or labels do not fit. ModelError: the model does
        not return logits (n, classes), or not from a linear layer.
    """
    if any(not 0 <= factor < float("inf") for factor in factors):
        raise ConfigError(f"sharpness.factors: found {list(factors)}, expected finite numbers >= 0")
    x, y = checked(model, x, y, threat.bounds, where="sharpness")
    widest = widest_radius(threat.norm, threat.bounds, math.prod(x.shape[1:]))
    radii = sorted({0.0, *(min(float(factor) * threat.eps, widest) for factor in factors)})
    head = model.get_submodule(last_linear(model, x, where="sharpness"))
    assert isinstance(head, nn.Linear)
    rows = []
    for place, radius in enumerate(radii):
        attack = PGD(threat.at(radius), steps=steps, seed=seed)
        images = attacked_images(model, x, y, attack, batch_size) if radius else x
        rows.append(_values(model, head, images, y, batch_size))
        progress(Event("sharpness", place + 1, len(radii), f"radius {radius:g}"))
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {"radius": np.array(radii), **stacked}


def relative_sharpness(
    features: Float[Tensor, "n d"], weight: Float[Tensor, "classes d"], logits: Float[Tensor, "n classes"]
) -> Float[Tensor, " n"]:
    """The kappa of each image, in float64: `||phi||^2` times half the mean of `||w_j - w_k||^2`, j, k from p.

    >>> eye = torch.eye(2)
    >>> round(relative_sharpness(torch.tensor([[3.0, 4.0]]), eye, torch.zeros(1, 2)).item(), 6)
    12.5
    """
    rows, p = weight.double(), logits.double().softmax(1)
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return features.double().square().sum(1) * 0.5 * ((p @ apart) * p).sum(1)


def measure_sharpness(
    subject: Subject,
    *,
    factors: Annotated[Sequence[Radius], Field(min_length=1)] = FACTORS,
    steps: Count = 10,
    examples: Count = 256,
    splits: SplitNames = ("test",),
) -> Measurement:
    """Sharpness and confidence at the images that each radius breaks, and at the same images unattacked."""
    arrays: dict[str, np.ndarray] = {}
    for split in splits:
        values = sharpness(
            subject.model,
            *subject.images(split, examples),
            subject.threat,
            factors=factors,
            steps=steps,
            **subject.settings,
            progress=subject.progress,
        )
        arrays["radius"] = values.pop("radius")
        arrays |= subject.arrays(split, examples, values)
    first = splits[0]
    conditions = {"split": first, "steps": steps, "eps": subject.threat.eps}
    return Measurement(
        {**_numbers(arrays, first), **conditions},
        unit="trace of the relative Hessian of the last layer; confidence: probability",
        what="How sharp the loss is at adversarial images and how sure the network, against the same images "
        "unattacked.",
        source="Walter et al. 2025 (arXiv 2510.14231); relative flatness by Petzka et al. 2021",
        conditions={
            **conditions,
            "radii": arrays["radius"].tolist(),
            "examples": len(arrays[f"{first}_index"]),
        },
        arrays=arrays,
    )


def _numbers(arrays: Mapping[str, np.ndarray], split: str) -> dict[str, Any]:
    """Medians over the images that a radius breaks, attacked and clean; None where it breaks none."""
    sharp, sure, wrong = (arrays[f"{split}_{name}"] for name in ("sharpness", "confidence", "wrong"))
    value: dict[str, Any] = {"clean": {"sharpness": float(np.median(sharp[0]))}}
    for radius, there, confident, fooled in zip(
        arrays["radius"][1:], sharp[1:], sure[1:], wrong[1:], strict=True
    ):
        broken = fooled & ~wrong[0]
        value[f"{radius:g}"] = {
            "broken": float(broken.mean()),
            "sharpness": _median(there[broken]),
            "clean_sharpness": _median(sharp[0][broken]),
            "confidence": _median(confident[broken]),
            "clean_confidence": _median(sure[0][broken]),
        }
    return value


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _values(
    model: nn.Module, head: nn.Linear, x: Tensor, y: Tensor, batch_size: int
) -> dict[str, np.ndarray]:
    """Sharpness, confidence, mistake and loss of each image."""
    weight, bias, device = head.weight.detach(), head.bias, device_of(model)
    parts: list[dict[str, Tensor]] = []
    for images, labels in zip(x.split(batch_size), y.to(device).split(batch_size), strict=True):
        with inference(model):
            output, (features, *_) = forward_reading(model, head, images.to(device))
        logits = output.float()
        if features.shape != (len(logits), weight.shape[1]) or logits.shape[1] != len(weight):
            raise ModelError(
                f"sharpness: found logits {tuple(logits.shape)}; a last linear layer {tuple(weight.shape)} "
                f"that reads {tuple(features.shape)}, expected the layer to give the logits of each image"
            )
        given = nn.functional.linear(features, weight, bias)
        sizes = nn.functional.linear(features.abs(), weight.abs(), None if bias is None else bias.abs())
        if not agree(output, given, sizes):
            raise ModelError(
                "sharpness: found logits that are not what the last linear layer gives, a scale or a "
                "normalisation behind it for instance; expected the layer to give the logits of each image"
            )
        parts.append(
            {
                "sharpness": relative_sharpness(features, weight, logits).float(),
                "confidence": logits.softmax(1).amax(1),
                "wrong": losses.is_wrong(logits, labels),
                "loss": losses.cross_entropy(logits, labels),
            }
        )
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
