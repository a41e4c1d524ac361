"""Average-case and worst-case flatness of the adversarial loss (Stutz, Hein and Schiele 2021).

    average: mean over random nu of max_{x'} CE(f_{w + nu}(x')) - max_{x'} CE(f_w(x'))
    worst:   the same for the nu that raises it most

with ||nu_l|| <= xi ||w_l||, layer by layer, so that no scale of the weights matters. A layer's weight and its
bias are tensors of their own; parameters of normalisation layers stay. As in a landscape the attack is made
anew at w + nu, and the error and the loss at matched temperature stand beside the loss.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.errors import ConfigError, NumericsError
from robustlens.explain.landscape.directions import Direction, moved_weights
from robustlens.explain.landscape.points import KINDS, AdversarialLoss, Values, stacked
from robustlens.explain.measure import Count, Measurement, Radius, SplitNames, Subject
from robustlens.explain.temperature import why_missing
from robustlens.models import frozen
from robustlens.models.inference import tracking
from robustlens.models.inputs import Images, Labels
from robustlens.models.layers import NORM_LAYERS
from robustlens.progress import Event, Listener, silent
from robustlens.threat import ThreatModel
from robustlens.weights import offset_weights

_TINY = 1e-20


def perturbed_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that are perturbed, by name: all but those of normalisation layers."""
    fixed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORM_LAYERS)
        for parameter in module.parameters()
    }
    return {name: p for name, p in model.named_parameters() if id(p) not in fixed}


def random_perturbation(model: nn.Module, xi: float, generator: torch.Generator) -> Direction:
    """A Gaussian direction with ||nu_l|| = xi ||w_l|| in every tensor.

    On the sphere, where in so many dimensions nearly all of the ball is.
    """
    direction = {}
    for name, weight in perturbed_tensors(model).items():
        draw = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
        direction[name] = draw * (xi * weight.detach().norm() / draw.norm().clamp_min(_TINY))
    return direction


def adversarial_perturbation(
    attacked: AdversarialLoss, threat: ThreatModel, xi: float, ascents: int
) -> Direction:
    """The nu in the ball that raises the adversarial loss most: an ascent on images and weights together.

    Each of the `ascents` steps takes one gradient of the mean cross entropy of all images, at w + nu and the
    adversarial images so far, which begin as those of w. With it every tensor moves by 2.5 / ascents of its
    radius along its own normalised gradient and back into the ball, and every image by one PGD step.

    Raises:
        NumericsError: a gradient is not finite.
    """
    weights = perturbed_tensors(attacked.model)
    radii = [xi * weight.detach().norm() for weight in weights.values()]
    nu = [torch.zeros_like(weight) for weight in weights.values()]
    x_adv = attacked.images()
    for _ in range(ascents):
        with offset_weights(list(weights.values()), nu):
            slopes, slope_of_images = _slopes(attacked, x_adv, list(weights.values()))
        nu = [_ascended(*each, ascents) for each in zip(nu, slopes, radii, strict=True)]
        step = threat.ascend(x_adv, slope_of_images, threat.default_step_size)
        x_adv = threat.project(step, attacked.x)
    return dict(zip(weights, nu, strict=True))


def flatness(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    xi_average: float = 0.5,
    draws: int = 10,
    xi_worst: float = 0.003,
    ascents: int = 20,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
    progress: Listener = silent,
) -> dict[str, np.ndarray]:
    """Adversarial loss at w, at random perturbations of w, and at the worst one that was found.

    Args:
        model: evaluated in eval mode and left as it is.
        x: images.
        y: labels.
        threat: of the attack at every point.
        xi_average: size of the random perturbations, as a share of each tensor's norm.
        draws: how many of them.
        xi_worst: size of the worst one.
        ascents: steps towards it.
        steps: of the PGD at every point.
        batch_size: changes speed, not results.
        seed: of the perturbations and of the attack's random starts.
        progress: hears an event at every point.

    Returns:
        reference_loss, worst_loss: (n,), average_loss: (draws, n), each image's adversarial cross entropy in
        nats; the same for `matched`, at the temperature that fits the clean logits at w best (NaN where none
        does), and for `error`, whether the prediction is wrong. temperature: (1,).

    Raises:
        ConfigError: no draw, no ascent, or a negative size. DataError: images or labels do not fit.
        ModelError: the model does not return logits (n, classes).
    """
    if draws < 1 or ascents < 1 or not (xi_average >= 0 and xi_worst >= 0):
        options = f"{draws} draws, {ascents} ascents, sizes {xi_average:g} and {xi_worst:g}"
        raise ConfigError(f"flatness: found {options}; expected at least 1 of each, and sizes >= 0")
    attacked = AdversarialLoss.under_pgd(
        model, x, y, threat, steps=steps, seed=seed, batch_size=batch_size, where="flatness"
    )
    reference = attacked()
    around = []
    for draw in range(draws):
        nu = random_perturbation(model, xi_average, noise.generator_for(seed, draw))
        around.append(_at(attacked, nu))
        progress(Event("flatness", draw + 1, draws + 1, "average case"))
    worst = _at(attacked, adversarial_perturbation(attacked, threat, xi_worst, ascents))
    progress(Event("flatness", draws + 1, draws + 1, "worst case"))
    return {
        "temperature": np.array([attacked.temperature]),
        **{f"reference_{kind}": values for kind, values in reference.items()},
        **{f"average_{kind}": values for kind, values in stacked(around, (draws,)).items()},
        **{f"worst_{kind}": values for kind, values in worst.items()},
    }


def measure_flatness(
    subject: Subject,
    *,
    xi_average: Radius = 0.5,
    draws: Count = 10,
    xi_worst: Radius = 0.003,
    ascents: Count = 20,
    steps: Count = 10,
    examples: Count = 128,
    splits: SplitNames = ("test",),
) -> Measurement:
    """Mean rise of the adversarial loss, the matched loss and the error, on average and at worst."""
    options: dict[str, Any] = {"xi_average": xi_average, "xi_worst": xi_worst}
    options |= {"draws": draws, "ascents": ascents, "steps": steps}
    arrays: dict[str, np.ndarray] = {}
    for split in splits:
        x, y = subject.images(split, examples)
        values = flatness(
            subject.model, x, y, subject.threat, **options, **subject.settings, progress=subject.progress
        )
        arrays |= subject.arrays(split, examples, values)
    first = splits[0]
    conditions = {"split": first, **options, "eps": subject.threat.eps}
    return Measurement(
        {
            **{case: _rises(arrays, first, case) for case in ("average", "worst")},
            **why_missing(float(arrays[f"{first}_temperature"][0])),
            **conditions,
        },
        unit="nats (error: share of images)",
        what="How far the adversarial loss rises at random weights around w, and at the worst found near w.",
        source="Stutz, Hein and Schiele 2021, section 3.3; one worst perturbation for all images together",
        conditions={**conditions, "examples": len(arrays[f"{first}_index"])},
        arrays=arrays,
    )


def _rises(arrays: dict[str, np.ndarray], split: str, case: str) -> dict[str, float]:
    """Mean of the values in this case minus those at w."""

    def mean(name: str) -> float:
        return float(arrays[f"{split}_{name}"].mean(dtype=np.float64))

    return {kind: mean(f"{case}_{kind}") - mean(f"reference_{kind}") for kind in KINDS}


def _at(attacked: AdversarialLoss, nu: Direction) -> Values:
    weights = moved_weights(attacked.model, nu)
    with offset_weights(weights, list(nu.values())):
        return attacked()


def _slopes(
    attacked: AdversarialLoss, x_adv: Tensor, weights: list[nn.Parameter]
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the summed cross entropy by every tensor, and by every image."""
    total = [torch.zeros_like(weight) for weight in weights]
    by_image = []
    with frozen(attacked.model), tracking(weights), torch.enable_grad():
        for images, labels in zip(
            x_adv.split(attacked.batch_size), attacked.y.split(attacked.batch_size), strict=True
        ):
            leaf = images.detach().requires_grad_()
            loss = losses.cross_entropy(attacked.model(leaf), labels).sum()
            *slopes, slope = torch.autograd.grad(loss, [*weights, leaf], materialize_grads=True)
            total = [sum_ + part for sum_, part in zip(total, slopes, strict=True)]
            by_image.append(slope)
    if not all(bool(part.isfinite().all()) for part in total):
        raise NumericsError("flatness: the gradient of the loss is NaN or infinite; check the weights")
    return total, torch.cat(by_image)


def _ascended(nu: Tensor, slope: Tensor, radius: Tensor, ascents: int) -> Tensor:
    """One normalised step of a tensor's perturbation, and back into its ball."""
    moved = nu + 2.5 / ascents * radius * slope / slope.norm().clamp_min(_TINY)
    return moved * (radius / moved.norm().clamp_min(_TINY)).clamp_max(1.0)
