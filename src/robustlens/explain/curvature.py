"""Curvature of the adversarial loss in weight space: largest eigenvalues, trace and density of its Hessian.

The Hessian is that of the mean loss at fixed adversarial images, made once at w: where the inner maximum is
unique, the gradient of the adversarial loss is the gradient there (Danskin), and the Hessian leaves out that
the images would move with the weights; a landscape, which attacks anew, bends at least as much upwards.

The weights' scale is arbitrary wherever a ReLU or a BatchNorm follows (Dinh et al. 2017), and with it every
number of the Hessian. So there is a *relative* one beside it, in which a weight is counted in units of the
root mean square of its filter. Its trace is the expected second derivative of the loss along the random
directions of a landscape (`landscape.filter_normalised`).
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from robustlens import noise
from robustlens.explain.hessian import Hessian, filter_units
from robustlens.explain.lanczos import hutchinson, lanczos, probes, spectral_density
from robustlens.explain.landscape.points import AdversarialLoss
from robustlens.explain.measure import Count, Measurement, SplitName, Subject
from robustlens.explain.temperature import why_missing
from robustlens.models.inputs import Images, Labels
from robustlens.threat import ThreatModel

RELATIVE = "relative_"
"""Begins the names of numbers that are free of scale."""


def curvature(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    eigenvalues: int = 5,
    lanczos_steps: int = 20,
    draws: int = 20,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Hessian of the adversarial loss at w, at the images that PGD makes there, in the model's precision.

    Args:
        model: in any mode; evaluated in eval mode and left as it is.
        x: images.
        y: labels.
        threat: of the attack.
        eigenvalues: how many of the largest.
        lanczos_steps: products with the Hessian for these, and as many again for the density.
        draws: products for the trace.
        steps: of the PGD.
        batch_size: changes speed, not results.
        seed: of the random vectors, the same for networks of one architecture, and of the attack's starts.

    Returns:
        eigenvalues: (eigenvalues,) the largest, from above. residuals: (eigenvalues,), each is this near to
        an eigenvalue. trace: (draws,) estimates. nodes, weights: of the density, as `spectral_density`, of
        one start vector. top_images: (n,), of each image's own loss the second derivative along the top
        eigenvector; trace_images: (draws, n), the same along the trace's probes: their means over images are
        the largest eigenvalue and the trace, so that images can be resampled. The same with "relative_"
        before them: each weight in units of the root mean square of its filter, and the loss at the
        temperature that fits the clean logits best: no scale is left; NaN where there is no such temperature.

    Raises:
        ConfigError: no weight with two dimensions, or a count below 1.
        DataError: images or labels do not fit. ModelError: the model does not return logits (n, classes).
        NumericsError: a product with the Hessian is not finite.
    """
    attacked = AdversarialLoss.under_pgd(
        model, x, y, threat, steps=steps, seed=seed, batch_size=batch_size, where="curvature"
    )
    x_adv, y = attacked.images(), attacked.y
    units, temperature = filter_units(model), attacked.temperature
    numbers = partial(_numbers, eigenvalues=eigenvalues, lanczos_steps=lanczos_steps, draws=draws, seed=seed)
    plain = numbers(Hessian(model, x_adv, y, batch_size=batch_size))
    if math.isnan(temperature):
        relative = {name: np.full_like(array, math.nan) for name, array in plain.items()}
    else:
        relative = numbers(
            Hessian(model, x_adv, y, units=units, temperature=temperature, batch_size=batch_size)
        )
    return plain | {f"{RELATIVE}{name}": array for name, array in relative.items()}


def measure_curvature(
    subject: Subject,
    *,
    examples: Count = 64,
    split: SplitName = "test",
    eigenvalues: Count = 5,
    lanczos_steps: Count = 20,
    draws: Count = 20,
    steps: Count = 10,
) -> Measurement:
    """Largest eigenvalues, trace and density of the Hessian, as it is and free of scale."""
    x, y = subject.images(split, examples)
    krylov = {"lanczos_steps": lanczos_steps, "draws": draws}
    arrays = curvature(
        subject.model,
        x,
        y,
        subject.threat,
        eigenvalues=eigenvalues,
        **krylov,
        steps=steps,
        **subject.settings,
    )
    conditions = {"split": split, "examples": len(x), "eps": subject.threat.eps, "steps": steps}
    return Measurement(
        conditions
        | _summary(arrays, "")
        | _summary(arrays, RELATIVE)
        | why_missing(float(arrays[f"{RELATIVE}eigenvalues"][0])),
        unit="nats per squared weight (relative: per squared root mean square of a filter)",
        what="How the adversarial loss curves in weight space, at the adversarial images of w.",
        source="Ghorbani, Krishnan and Xiao 2019; Yao et al. 2018; the relative units are ours",
        conditions={**conditions, **krylov},
        arrays=subject.arrays(split, examples, arrays),
    )


def _summary(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, float]:
    """Largest eigenvalue and trace, each with its error."""
    traces = arrays[f"{prefix}trace"]
    return {
        f"{prefix}top_eigenvalue": float(arrays[f"{prefix}eigenvalues"][0]),
        f"{prefix}top_residual": float(arrays[f"{prefix}residuals"][0]),
        f"{prefix}trace": float(traces.mean()),
        # A single draw has no standard error.
        f"{prefix}trace_error": float(traces.std(ddof=1) / len(traces) ** 0.5) if len(traces) > 1 else 0.0,
    }


def _numbers(
    hessian: Hessian, *, eigenvalues: int, lanczos_steps: int, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Arrays of `curvature` for one Hessian."""
    start = torch.randn(hessian.size, generator=noise.generator_for(seed, 0))
    ritz = lanczos(hessian, start.to(hessian.device, hessian.dtype), lanczos_steps)
    nodes, weights = spectral_density(hessian, 1, lanczos_steps, noise.generator_for(seed, 2))
    trace = hutchinson(hessian, draws, noise.generator_for(seed, 1))
    by_probe = [hessian.by_image(z) for z in probes(hessian, draws, noise.generator_for(seed, 1))]
    return {
        "eigenvalues": ritz.values[:eigenvalues],
        "residuals": ritz.residuals[:eigenvalues],
        "trace": trace,
        "nodes": nodes,
        "weights": weights,
        "top_images": hessian.by_image(ritz.top).double().cpu().numpy(),
        "trace_images": torch.stack(by_probe).double().cpu().numpy(),
    }
