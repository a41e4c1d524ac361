"""Sudden changes: how much a fixed perturbation moves the outputs of a network, and its features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks import PGD
from robustlens.errors import ConfigError
from robustlens.explain.activations import l2_norm, over_layers
from robustlens.explain.margins import MATCHED, attacked_images, logits_of, margins_of
from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.explain.temperature import best_temperature, why_missing
from robustlens.models import device_of
from robustlens.models.inputs import Images, Labels, checked, checked_images
from robustlens.threat import ThreatModel

LOGITS_OF = ("clean", "attacked", "noisy")
LABEL_FLIP = "label_flip"
"""Name of the array of images whose prediction a perturbation changes."""
SUDDEN = 0.95
"""Share of the images that change no more than the quantile by which sudden changes are measured."""


def smoothness(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Clean minus attacked, for each image, under one fixed PGD on cross entropy.

    Returns:
        margin_change: of the logit margin; probability_change: of the probability margin, in [-2, 2];
        confidence_change: of the largest probability. Positive where the attack lowers it; each (n,).
        matched_probability_change, matched_confidence_change: the same with the logits divided by the
        temperature that fits the clean ones best; NaN where none does. label_flip: whether the prediction
        is another one, right or wrong.

    Raises:
        DataError: images or labels do not fit. ModelError: the model does not return logits (n, classes).
    """
    x, y = checked(model, x, y, threat.bounds, where="smoothness")
    attack = PGD(threat, steps=steps, seed=seed)
    x_adv = attacked_images(model, x, y, attack, batch_size)
    clean, attacked = (logits_of(model, images, batch_size) for images in (x, x_adv))
    return changes_of(clean, attacked, y.cpu())


def changes_of(
    clean: Float[Tensor, "n c"], attacked: Float[Tensor, "n c"], y: Int64[Tensor, " n"]
) -> dict[str, np.ndarray]:
    """`smoothness` from logits that are known already."""
    temperature = best_temperature(clean, y)
    before, after = margins_of(clean, y), margins_of(attacked, y)
    matched_before = margins_of(clean / temperature, y)
    matched_after = margins_of(attacked / temperature, y)
    names = {"margin_change": "logit", "probability_change": "probability", "confidence_change": "confidence"}
    changes = {name: before[kind] - after[kind] for name, kind in names.items()}
    del names["margin_change"]  # at matched temperature it is the same, divided by the temperature
    matched = {MATCHED + name: matched_before[kind] - matched_after[kind] for name, kind in names.items()}
    flips = {LABEL_FLIP: (clean.argmax(1) != attacked.argmax(1)).numpy()}
    return changes | matched | flips


def feature_changes(
    model: nn.Module, x: Images, moved: Images, *, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Relative change `||phi(x + delta) - phi(x)|| / ||phi(x)||` of every activation, for each image.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images.
        moved: the same images, perturbed: x + delta, anywhere.
        batch_size: images at a time, each with its moved copy; changes speed and memory, not results.

    Returns:
        (n,) float32 for each activation phi that `activations` reads, under its names and in its order. 1
        where something comes from nothing, 0 where nothing stays nothing.

    Raises:
        ConfigError: `moved` has another shape. DataError, ModelError: as `activations`.
    """
    x, moved = (checked_images(each, None, model, where="feature_changes") for each in (x, moved))
    if x.shape != moved.shape:
        shapes = f"{tuple(x.shape)} and {tuple(moved.shape)}"
        raise ConfigError(f"feature_changes: found images of shapes {shapes}, expected one shape")
    pairs = zip(x.split(batch_size), moved.split(batch_size), strict=True)
    norms = over_layers(model, (torch.cat(pair) for pair in pairs), _norm_and_change)
    return {key: _relative(change, norm) for key, (norm, change) in norms.items()}


def input_change(x: Float[Tensor, "n ..."], moved: Float[Tensor, "n ..."]) -> Float[np.ndarray, " n"]:
    """`||delta|| / ||x||` of every image: a feature's relative change over it is its amplification."""
    norm, change = _norm_and_change(torch.cat([x, moved])).cpu().numpy()
    return _relative(change, norm)


def measure_smoothness(subject: Subject, *, steps: Count = 10, examples: Count | None = None) -> Measurement:
    """Change of margin, confidence and features on test images, under PGD at the plan's threat.

    Features are moved by the same adversarial delta as the margins, one for each image, and, for a direction
    that no network has chosen, by random noise in the same ball, which is the same for every network.
    """
    index, y = subject.index("test", examples), subject.test.labels[:examples]
    parts = [_moved(subject, rows, steps) for rows in _parts(subject, len(y))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    clean, attacked, noisy = (torch.from_numpy(joined.pop(name)) for name in LOGITS_OF)
    arrays = changes_of(clean, attacked, y)
    arrays[f"noise_{LABEL_FLIP}"] = (clean.argmax(1) != noisy.argmax(1)).numpy()
    reason = why_missing(best_temperature(clean, y))
    value: dict[str, Any] = {"eps": subject.threat.eps, "steps": steps, **reason}
    for name, change in arrays.items():
        value |= {f"mean_{name}": float(change.mean()), f"std_{name}": float(change.std())}
        if change.dtype != bool:
            value[f"q95_{name}"] = float(np.quantile(change, SUDDEN, method="inverted_cdf"))
    arrays |= joined
    value["layers"] = _by_layer(joined)
    return Measurement(
        value,
        unit="difference of logits, or of probability; features: relative",
        what="How far a fixed PGD lowers the margin and the confidence of each test image, and moves what "
        "each layer reads.",
        source="Wen, Li and Jia 2020, section 5 (sudden changes of prediction and of features)",
        conditions={"split": "test", "examples": len(y), "eps": subject.threat.eps, "steps": steps},
        arrays={**arrays, "index": index},
    )


def _parts(subject: Subject, n: int) -> list[slice]:
    """Images that are looked at together: all of them, or batches of those that are read from the disk."""
    size = subject.batch_size if subject.test.is_packed else max(n, 1)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _moved(subject: Subject, rows: slice, steps: int) -> dict[str, np.ndarray]:
    """Logits of test images as they are and attacked, and changes under the attack and under noise."""
    device = device_of(subject.model)
    x, y = subject.test.x(rows).to(device), subject.test.labels[rows].to(device)
    attack = PGD(subject.threat, steps=steps, seed=subject.seed)
    moved = {
        "attack": attacked_images(subject.model, x, y, attack, subject.batch_size),
        "noise": subject.threat.start_from(noise.keys(x, subject.seed), x),
    }
    values = {
        name: logits_of(subject.model, of, subject.batch_size).numpy()
        for name, of in zip(LOGITS_OF, (x, moved["attack"], moved["noise"]), strict=True)
    }
    for kind, images in moved.items():
        values[f"{kind}_input"] = input_change(x, images)
        changes = feature_changes(subject.model, x, images, batch_size=subject.batch_size)
        values |= {f"{kind}/{layer}": change for layer, change in changes.items()}
    return values


def _by_layer(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """Mean relative change of every activation, and mean amplification: the same over that of the input.

    "attack_over_noise" is the mean amplification under the attack over that under noise: 1 where the network
    stretches the direction that was chosen against it no more than any other.
    """
    layers: dict[str, dict[str, float | None]] = {}
    for kind in ("attack", "noise"):
        size = arrays[f"{kind}_input"]
        for name in (name for name in arrays if name.startswith(f"{kind}/")):
            change = arrays[name]
            gain = np.divide(change, size, np.zeros_like(change), where=size > 0)
            numbers = layers.setdefault(name.removeprefix(f"{kind}/"), {})
            numbers |= {kind: float(change.mean()), f"{kind}_amplification": float(gain.mean())}
    for numbers in layers.values():
        attack, noise = numbers["attack_amplification"], numbers["noise_amplification"]
        numbers["attack_over_noise"] = attack / noise if attack is not None and noise else None
    return layers


def _norm_and_change(pairs: Float[Tensor, "n2 ..."]) -> Float[Tensor, "2 n"]:
    """Norms of the first half, and of the second half minus the first."""
    first, second = pairs.chunk(2)
    return torch.stack([l2_norm(first), l2_norm(second - first)])


def _relative(change: np.ndarray, norm: np.ndarray) -> np.ndarray:
    return np.divide(change, norm, np.sign(change), where=norm > 0)
