"""A few test images: as they are, attacked, and as the gradient of the network's loss sees them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks import PGD
from robustlens.explain.derivatives import log_odds_gradient
from robustlens.explain.margins import logits_of
from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.models import device_of
from robustlens.models.inputs import Images, Labels, checked
from robustlens.threat import ThreatModel

_CHOICE = 10  # sub-stream of the plan's seed


def gallery(
    model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, steps: int = 20, seed: int = 0
) -> dict[str, np.ndarray]:
    """Adversarial images of one PGD on cross entropy, input gradients, and predictions before and after.

    All images go through the network together, so give it a few.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images inside the threat's bounds.
        y: labels.
        threat: of the attack.
        steps: of the attack, which keeps its best iterate.
        seed: of its random start.

    Returns:
        x_adv: (n, ...) float32, feasible. gradient: (n, ...) float32, of the cross entropy with respect to x,
        divided by 1 - p_y: a factor of each image, without which the gradient of an image that the network
        is sure of is rounded to 0. prediction, adversarial_prediction: (n,) classes. confidence,
        adversarial_confidence: (n,), the largest probability.

    Raises:
        DataError: no images; images or labels do not fit. ModelError: the model does not return logits
            (n, classes), or these carry no gradient.
    """
    x, y = (part.to(device_of(model)) for part in checked(model, x, y, threat.bounds, where="gallery"))
    x_adv = PGD(threat, steps=steps, seed=seed)(model, x, y)
    arrays = {
        "x_adv": x_adv.float().cpu().numpy(),
        "gradient": log_odds_gradient(model, x, y).float().cpu().numpy(),
    }
    for prefix, images in (("", x), ("adversarial_", x_adv)):
        confidence, prediction = logits_of(model, images, len(images)).softmax(1).max(1)
        arrays[f"{prefix}prediction"] = prediction.numpy()
        arrays[f"{prefix}confidence"] = confidence.numpy()
    return arrays


def measure_gallery(subject: Subject, *, examples: Count = 10, steps: Count = 20) -> Measurement:
    """The gallery of a few test images, the same for every network, whatever the batch size.

    Gradients are scaled so that the largest absolute value of each image is 1.
    """
    rows = spread_over_classes(subject.test.labels, examples, subject.seed)
    x, y = subject.test.x(rows), subject.test.labels[rows]
    arrays = gallery(subject.model, x, y, subject.threat, steps=steps, seed=subject.seed)
    arrays["gradient"] = _scaled(arrays["gradient"]).astype(np.float16)
    labels = y.numpy()
    value = {
        "right": int((arrays["prediction"] == labels).sum()),
        "right_under_attack": int((arrays["adversarial_prediction"] == labels).sum()),
        "labels": _names(labels, subject.classes),
        "predictions": _names(arrays["prediction"], subject.classes),
        "adversarial_predictions": _names(arrays["adversarial_prediction"], subject.classes),
    }
    arrays |= {"x": x.numpy(), "label": labels, "index": subject.test.index[rows].numpy()}
    return Measurement(
        value,
        unit="images",
        what="A few test images, attacked, and the gradient of the loss with respect to them.",
        source="Gradients of robust networks look like what they show: Tsipras et al. 2019, section 3.1",
        conditions={"split": "test", "examples": len(y), "eps": subject.threat.eps, "steps": steps},
        arrays={f"test_{name}": array for name, array in arrays.items()},
    )


def spread_over_classes(labels: Int64[Tensor, " n"], examples: int, seed: int) -> Int64[Tensor, " m"]:
    """Rows of `examples` images, or of all if there are fewer, spread over as many classes as there are.

    No class has two before every class has one. They come in the order of their labels. Which images, and
    where there are more classes than images which classes, is a function of labels and seed.
    """
    order = torch.randperm(len(labels), generator=noise.generator_for(seed, _CHOICE))
    grouped = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    rank = torch.empty_like(order)
    rank[grouped] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[grouped]]
    chosen = order[rank[order].argsort(stable=True)][:examples].sort().values
    return chosen[labels[chosen].argsort(stable=True)]


def _scaled(gradient: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    largest = np.abs(gradient).reshape(len(gradient), -1).max(1).reshape(-1, *[1] * (gradient.ndim - 1))
    return np.divide(gradient, largest, np.zeros_like(gradient), where=largest > 0)


def _names(labels: Int64[np.ndarray, " n"], classes: Sequence[str]) -> list[str]:
    """Names of the classes, and the number of one that has none."""
    return [classes[label] if label < len(classes) else str(label) for label in labels.tolist()]
