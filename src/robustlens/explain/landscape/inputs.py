"""The loss around the images themselves."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks import PGD
from robustlens.attacks.base import Goal, input_gradient, require_radius
from robustlens.errors import ConfigError
from robustlens.explain.landscape.points import stacked, values_of
from robustlens.explain.margins import attacked_images, logits_of
from robustlens.models import device_of, frozen
from robustlens.models.inputs import Images, Labels, checked
from robustlens.threat import ThreatModel

RADII = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""In units of eps."""


def input_landscape(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    radii: Sequence[float] = RADII,
    towards: str = "gradient",
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Loss on the plane x + a g + b r through every image: g is adversarial, r random.

    With `towards="gradient"`, g is the step of steepest ascent of the cross entropy at x, eps long in the
    threat's norm; with "attack" it leads to the image that PGD finds. r is the step of the same length along
    Gaussian noise that belongs to the image. A loss that is far from linear along g within eps, or that rises
    as fast along r, is one that gradient attacks may fail on. The plane is not cut with the pixel box: the
    loss is that of the function, also just outside.

    Args:
        model: evaluated in eval mode.
        x: images.
        y: labels.
        threat: its norm and eps give the directions their length.
        radii: values of a and of b, in units of eps.
        towards: meaning of g, "gradient" or "attack".
        steps: of the PGD, where g leads to its image.
        batch_size: changes speed, not results.
        seed: of r, and of the PGD's random start.

    Returns:
        radius: (k,) ascending. loss: (k, k, n) cross entropy in nats, a along the first axis and b along the
        second. error: (k, k, n), whether the prediction is wrong.

    Raises:
        ConfigError: another `towards`, or an infinite eps. DataError: images or labels do not fit.
        ModelError: the model does not return logits (n, classes).
    """
    where = "input_landscape"
    x, y = (part.to(device_of(model)) for part in checked(model, x, y, threat.bounds, where=where))
    require_radius(threat)
    if towards not in ("gradient", "attack"):
        raise ConfigError(f"landscape: found towards {towards!r}, expected 'gradient' or 'attack'")
    if towards == "attack":
        adversarial = attacked_images(model, x, y, PGD(threat, steps=steps, seed=seed), batch_size) - x
    else:
        adversarial = _step(threat, x, _gradient(model, x, y, batch_size))
    random = _step(threat, x, noise.normal(noise.keys(x, seed), x))
    points = sorted(float(radius) for radius in radii)
    everywhere = [
        values_of(logits_of(model, x + a * adversarial + b * random, batch_size), y, 1.0)
        for a in points
        for b in points
    ]
    values = stacked(everywhere, (len(points), len(points)))
    return {"radius": np.array(points), "loss": values["loss"], "error": values["error"]}


def _gradient(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    gradients = []
    with frozen(model):
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            goal = Goal.of(model, images, labels, "ce", targeted=False)
            gradients.append(input_gradient(model, images, goal)[0])
    return torch.cat(gradients)


def _step(threat: ThreatModel, x: Tensor, slope: Tensor) -> Tensor:
    """The step of steepest ascent along `slope`, eps long, from the middle of the box, where all is free."""
    low, high = threat.bounds
    middle = torch.full_like(x, (low + high) / 2)
    return threat.ascend(middle, slope, threat.eps) - middle
