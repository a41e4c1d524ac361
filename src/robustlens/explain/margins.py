"""Margins, confidence, losses, and errors that are close calls; as they are and at matched temperature."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import Attack
from robustlens.explain.features import between_over_within, logits_and_features, scatter
from robustlens.explain.measure import Measurement, SplitName, Subject
from robustlens.explain.temperature import best_temperature, why_missing
from robustlens.models import device_of, inference
from robustlens.models.inputs import Images, Labels, Readable, checked
from robustlens.stats import misclassification
from robustlens.stats.intervals import interquartile_range
from robustlens.stats.misclassification import TAUS, logit_margin
from robustlens.stats.samples import wasserstein_distance

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
MATCHED = "matched_"
"""Begins the names of what is measured on logits divided by the network's own best temperature."""


def logits_of(model: nn.Module, x: Readable, batch_size: int = 256) -> Float[Tensor, "n c"]:
    """Logits in eval mode, in batches, on the CPU; the model is left as it was."""
    with inference(model):
        device = device_of(model)
        return torch.cat([model(batch.to(device)).float().cpu() for batch in x.split(batch_size)])


def attacked_images(
    model: nn.Module, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], attack: Attack, batch_size: int = 256
) -> Float[Tensor, "n ..."]:
    """Adversarial images of `x`, in batches."""
    device = device_of(model)
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([attack(model, images.to(device), labels.to(device)) for images, labels in pairs])


def margins(model: nn.Module, x: Images, y: Labels, *, batch_size: int = 256) -> dict[str, np.ndarray]:
    """Margins, confidence and loss of every image; each array is (n,).

    Args:
        model: evaluated in eval mode without gradients, and left as it was.
        x: images.
        y: labels.
        batch_size: changes speed, not results (but for rounding).

    Returns:
        logit: `f_y - max_{i != y} f_i` (Wen et al. 2020, section 3). probability: the same of the
        softmax, in [-1, 1]. confidence: `max_i p_i`. correct: whether the prediction is y. loss: the cross
        entropy in nats. An image is right exactly where its margin is positive, ties aside.

    Raises:
        DataError: images or labels do not fit. ModelError: the model does not return logits (n, classes).
    """
    x, y = checked(model, x, y, where="margins")
    return margins_of(logits_of(model, x, batch_size), y.cpu())


def margins_of(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> dict[str, np.ndarray]:
    """`margins` from logits that are known already."""
    probability = logits.softmax(1)
    return {
        "logit": (-losses.margin(logits, y)).numpy(),
        "probability": (-losses.margin(probability, y)).numpy(),
        "confidence": probability.amax(1).numpy(),
        "correct": (~losses.is_wrong(logits, y)).numpy(),
        "loss": losses.cross_entropy(logits, y).numpy(),
    }


def ramp_risk(probability: np.ndarray) -> float:
    """Mean ramp loss `min(1, max(0, 1 - M / gamma))` of probability margins M, with gamma = 1.

    The paper's ramp loss (Wen et al. 2020, definition 4) takes logit margins, whose scale is arbitrary, and
    leaves gamma to be chosen. A probability margin is at most 1, which makes gamma = 1 the natural one.

    >>> ramp_risk(np.array([1.0, 0.25, -0.5]))
    0.5833333333333334
    """
    return float(losses.ramp(probability.astype(np.float64)).mean())


def summarize(margins: Mapping[str, np.ndarray], taus: tuple[float, ...] = TAUS) -> dict[str, Any]:
    """Numbers of one split's margins.

    `within`: share of images whose probability margin is within tau of the boundary, on either side;
    `within_logit`: whose logit margin is within 2 artanh(tau), which with two classes is the same.
    `indecisive_errors`: share of all images that are wrong with p_max - p_y < tau (on a mistake that is
    minus the probability margin); `indecisive_share`: the same as a share of the mistakes.
    """
    logit, probability = margins["logit"], margins["probability"]
    return {
        "mean_logit": float(logit.mean()),
        "std_logit": float(logit.std()),
        "iqr_logit": interquartile_range(logit),
        "mean_probability": float(probability.mean()),
        "std_probability": float(probability.std()),
        "iqr_probability": interquartile_range(probability),
        "within": {str(tau): float((np.abs(probability) < tau).mean()) for tau in taus},
        "within_logit": {str(tau): float((np.abs(logit) < logit_margin(tau)).mean()) for tau in taus},
        "confidence": float(margins["confidence"].mean()),
        "ramp_risk": ramp_risk(probability),
        "loss": float(margins["loss"].mean()),
        **misclassification.summarize(margins["correct"], probability, taus),
    }


def measure_margins(subject: Subject) -> Measurement:
    """Margins on training and test images, how far the two lie apart, and the same at matched temperature.

    The features that the margins are made of are measured in the same pass: their scatter between the classes
    over that within them.
    """
    logits, features, labels = {}, {}, {}
    for split in SPLITS:
        x, y = subject.readable(split)
        logits[split], features[split], no_features = logits_and_features(
            subject.model, x, subject.batch_size
        )
        labels[split] = y.cpu()
    temperature = best_temperature(logits["test"], labels["test"])
    plain = {split: margins_of(logits[split], labels[split]) for split in SPLITS}
    matched = {split: margins_of(logits[split] / temperature, labels[split]) for split in SPLITS}
    reason = why_missing(temperature)
    at_matched = {"temperature": temperature} | ({} if reason else _compared(matched))
    value = {**_compared(plain), "matched": at_matched, **reason}
    arrays: dict[str, np.ndarray] = {"temperature": np.array([temperature])}
    for split in SPLITS:
        arrays |= {f"{split}_{name}": array for name, array in plain[split].items()}
        scaled = {name: array for name, array in matched[split].items() if name != "correct"}
        arrays |= {f"{split}_{MATCHED}{name}": array for name, array in scaled.items()}
        arrays[f"{split}_label"] = labels[split].numpy()
        arrays[f"{split}_index"] = subject.index(split)
        value[split]["by_class"] = misclassification.by_class(
            plain[split]["correct"], plain[split]["probability"], arrays[f"{split}_label"]
        )
        if (points := features[split]) is not None:
            spread = scatter(points, labels[split])
            value[split]["between_over_within"] = between_over_within(**spread)
            arrays |= {f"{split}_scatter_{name}": array for name, array in spread.items()}
        else:
            value["scatter_missing"] = no_features
    return Measurement(
        value,
        unit="logits, or probability in [-1, 1]",
        what="Margin to the runner-up class, confidence, the mistakes that are close calls, and how far the "
        "features set the classes apart.",
        source="Wen, Li and Jia 2020, section 3 and figures 3-5; Wasserstein-1 distance is ours",
        conditions={f"{split}_examples": len(labels[split]) for split in SPLITS},
        arrays=arrays,
    )


def _compared(margins: Mapping[SplitName, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Numbers of both splits, and how far apart their margins are."""
    distances = {
        kind: wasserstein_distance(margins["train"][kind], margins["test"][kind])
        for kind in ("logit", "probability")
    }
    return {**{split: summarize(margins[split]) for split in SPLITS}, "wasserstein_train_test": distances}
