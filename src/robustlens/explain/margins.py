"""Margins, confidence, and errors that are close calls."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import Attack
from robustlens.explain.measure import Measurement, Subject
from robustlens.models import device_of, undisturbed

TAUS = (0.1, 0.2, 0.3)
"""How near to the boundary counts as near: differences of probability."""


def logits_of(model: nn.Module, x: Float[Tensor, "n ..."], batch_size: int = 256) -> Float[Tensor, "n c"]:
    """Logits in eval mode, in batches, on the CPU; the model is left as it was."""
    with undisturbed(model):
        device = device_of(model)
        return torch.cat([model(batch.to(device)).float().cpu() for batch in x.split(batch_size)])


def attacked_logits(
    model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], attack: Attack, batch_size: int = 256
) -> Float[Tensor, "n c"]:
    """As `logits_of`, of the images that `attack` makes of `x`."""
    device = device_of(model)
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    x_adv = [attack(model, images.to(device), labels.to(device)) for images, labels in pairs]
    return logits_of(model, torch.cat(x_adv), batch_size)


def margins(
    model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], *, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Margins and confidence of every image; each array is (n,).

    Returns:
        logit: `f_y - max_{i != y} f_i` (Wen et al. 2020, section 3). probability: the same of the
        softmax, in [-1, 1]. confidence: `max_i p_i`. correct: whether the prediction is y. An image is
        right exactly where its margin is positive, ties aside.
    """
    return margins_of(logits_of(model, x, batch_size), y.cpu())


def margins_of(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> dict[str, np.ndarray]:
    """`margins` from logits that are known already."""
    probability = logits.softmax(1)
    return {
        "logit": (-losses.margin(logits, y)).numpy(),
        "probability": (-losses.margin(probability, y)).numpy(),
        "confidence": probability.amax(1).numpy(),
        "correct": (~losses.is_wrong(logits, y)).numpy(),
    }


def summarize(found: Mapping[str, np.ndarray], taus: tuple[float, ...] = TAUS) -> dict[str, Any]:
    """Numbers of one split's margins.

    `within`: share of images whose probability margin is within tau of the boundary, on either side.
    `indecisive_errors`: share of all images that are wrong with p_max - p_y < tau (on a mistake that is
    minus the probability margin); `indecisive_share`: the same as a share of the mistakes.
    """
    logit, probability, wrong = found["logit"], found["probability"], ~found["correct"]
    indecisive = {str(tau): float((wrong & (-probability < tau)).mean()) for tau in taus}
    error = float(wrong.mean())
    return {
        "mean_logit": float(logit.mean()),
        "std_logit": float(logit.std()),
        "iqr_logit": _iqr(logit),
        "mean_probability": float(probability.mean()),
        "std_probability": float(probability.std()),
        "iqr_probability": _iqr(probability),
        "within": {str(tau): float((np.abs(probability) < tau).mean()) for tau in taus},
        "confidence": float(found["confidence"].mean()),
        "error": error,
        "indecisive_errors": indecisive,
        "indecisive_share": {tau: share / error if error else 0.0 for tau, share in indecisive.items()},
    }


def measure_margins(subject: Subject) -> Measurement:
    """Margins on training and test images, and how far the two distributions lie apart."""
    value: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    found = {}
    for split in ("train", "test"):
        found[split] = margins(subject.model, *subject.images(split), batch_size=subject.batch_size)
        value[split] = summarize(found[split])
        arrays |= {f"{split}_{name}": array for name, array in found[split].items()}
        arrays[f"{split}_index"] = getattr(subject, split).index.numpy()
    value["wasserstein_train_test"] = {
        kind: float(wasserstein_distance(found["train"][kind], found["test"][kind]))
        for kind in ("logit", "probability")
    }
    return Measurement(
        value,
        unit="logits, or probability in [-1, 1]",
        what="Margin to the runner-up class, confidence, and the mistakes that are close calls.",
        source="Wen, Li and Jia 2020, section 3 and figures 3-5; Wasserstein-1 distance is ours",
        arrays=arrays,
    )


def _iqr(values: np.ndarray) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)
