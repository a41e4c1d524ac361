"""Instance margins: how far in L2 an image is from the decision boundary, from both sides."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import MinimumNorm
from robustlens.certification.margin import certificate
from robustlens.errors import ModelError
from robustlens.explain.margins import attacked_images, logits_of
from robustlens.models.inputs import Bounds, Images, Labels, checked
from robustlens.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class InstanceMargins:
    """Distances of images to the decision boundary, in L2 and in the units of the image.

    Attributes:
        upper: to the nearest misclassified image found; inf where none was found.
        lower: no image nearer than that is misclassified; None where there is no certificate.
        correct: whether the prediction is y. Where it is not, both distances are 0.
        nearest: the misclassified images found, on the CPU; the image itself where none was, or where it is
            misclassified.
        why: reason for the missing certificate; empty where there is one.
    """

    upper: Float[np.ndarray, " n"]
    lower: Float[np.ndarray, " n"] | None
    correct: Bool[np.ndarray, " n"]
    nearest: Float[Tensor, "n ..."] = field(repr=False)
    why: str = ""

    @property
    def crossed(self) -> Bool[np.ndarray, " n"]:
        """Mask of the images that are right and have a boundary point."""
        return self.correct & np.isfinite(self.upper)


def instance_margins(
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    steps: int = 50,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = 256,
) -> InstanceMargins:
    """Bracket v(x), the L2 distance of each image to the decision boundary (Wen et al. 2020, definition 6).

    From above: a minimum-norm search over all feasible images, which ends with bisection (to 1e-4) on the
    segment from x. From below: the margin over the Lipschitz constants of its differences, see `certificate`;
    it holds without the pixel box, and so within it. An image that is misclassified has no margin: 0, where
    the paper's definition is about networks that are right and robust there.

    Since v(x') >= v(x) - ||x' - x||, a covering ball of radius eps about x has no margin below v(x) - eps.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images inside `bounds`.
        y: labels.
        steps: of the search.
        bounds: of the pixels.
        seed: of the search's random beginnings.
        batch_size: changes speed, not results (but for rounding).

    Raises:
        ConfigError: `steps` below 1. DataError: images or labels do not fit.
        ModelError: the model does not return logits (n, classes).
    """
    x, y = checked(model, x, y, bounds, where="instance_margins")
    attack = MinimumNorm(ThreatModel("L2", float("inf"), bounds), steps=steps, seed=seed)
    nearest = attacked_images(model, x, y, attack, batch_size).cpu()
    logits, labels, images = logits_of(model, x, batch_size), y.cpu(), x.detach().cpu()
    correct = ~losses.is_wrong(logits, labels)
    distance = attack.threat.distance(nearest.double(), images.double())
    # The search gives x itself where it found nothing, and where there was nothing to search.
    upper = torch.where(correct & (distance == 0), torch.inf, distance)
    try:
        lower, why = certificate(model, x.shape[1:]).radius(logits, labels).numpy(), ""
    except ModelError as error:
        lower, why = None, str(error)
    return InstanceMargins(upper.numpy(), lower, correct.numpy(), nearest, why)
