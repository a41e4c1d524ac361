"""The adversarial loss along lines and on planes in weight space."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from robustlens import noise
from robustlens.errors import ConfigError
from robustlens.explain.landscape.directions import (
    Direction,
    filter_normalised,
    values_on_line,
    values_on_plane,
)
from robustlens.explain.landscape.points import AdversarialLoss, Values, stacked
from robustlens.models.inputs import Images, Labels
from robustlens.progress import Event, Listener, silent
from robustlens.threat import ThreatModel

ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


def landscape(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    alphas: Sequence[float] = ALPHAS,
    draws: int = 1,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
    directions: Sequence[Direction] | None = None,
    progress: Listener = silent,
) -> dict[str, np.ndarray]:
    """One-dimensional adversarial weight-loss landscape (Wu, Xia and Wang 2020, eq. 3).

    Args:
        model: evaluated in eval mode; its BatchNorm buffers stay those of w.
        x: images.
        y: labels.
        threat: of the attack at every point.
        alphas: points on the line; 0 is added where it is missing.
        draws: number of filter-normalised directions, drawn from `seed`.
        steps: of the PGD at every point.
        batch_size: changes speed, not results.
        seed: of the directions and of the attack's random starts.
        directions: use these instead of drawing, by parameter name.
        progress: hears an event at every point.

    Returns:
        alpha: (k,) ascending. loss, error, matched: (k, draws, n) for each image the adversarial cross
        entropy in nats, whether it is broken, and the cross entropy at the temperature that is best for
        the clean logits at alpha = 0: a constant factor on all logits leaves no trace in it but through the
        attack. NaN where no temperature is best.
        temperature: (1,).

    Raises:
        ConfigError: no draw. DataError: images or labels do not fit.
        ModelError: the model does not return logits (n, classes).
    """
    if directions is None:
        directions = _drawn(model, draws, seed)
    attacked = AdversarialLoss.under_pgd(
        model, x, y, threat, steps=steps, seed=seed, batch_size=batch_size, where="landscape"
    )
    points = sorted({0.0, *(float(alpha) for alpha in alphas)})
    here = attacked()  # alpha = 0 is the same point on every line
    lines = []
    for column, direction in enumerate(directions):
        moved = values_on_line(model, direction, [alpha for alpha in points if alpha != 0], attacked)
        for row, alpha in enumerate(points):
            lines.append(here if alpha == 0 else next(moved))
            done = column * len(points) + row + 1
            progress(Event("landscape", done, len(points) * len(directions), f"alpha {alpha:g}"))
    by_line = stacked(lines, (len(directions), len(points)))
    return {
        "alpha": np.array(points),
        "temperature": np.array([attacked.temperature]),
        **{kind: values.swapaxes(0, 1) for kind, values in by_line.items()},
    }


def plane(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    alphas: Sequence[float] = ALPHAS,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
    directions: tuple[Direction, Direction] | None = None,
    progress: Listener = silent,
) -> dict[str, np.ndarray]:
    """Two-dimensional adversarial weight-loss landscape, w + a d + b e, attacked anew at every point.

    Arguments as `landscape`, with the same `alphas` for a and for b. `directions` are by default the first
    two that `landscape` draws from the same seed: the plane contains its lines, and has their values there.

    Returns:
        alpha: (k,) ascending, 0 among them. loss, error, matched: (k, k, n), a along the first axis and b
        along the second, as in `landscape`. temperature: (1,).

    Raises:
        DataError: images or labels do not fit. ModelError: the model does not return logits (n, classes).
    """
    if directions is None:
        first, second = _drawn(model, 2, seed)
        directions = (first, second)
    attacked = AdversarialLoss.under_pgd(
        model, x, y, threat, steps=steps, seed=seed, batch_size=batch_size, where="plane"
    )
    points = sorted({0.0, *(float(alpha) for alpha in alphas)})
    everywhere: list[Values] = []
    for values in values_on_plane(model, directions, points, attacked):
        everywhere.append(values)
        progress(Event("landscape", len(everywhere), len(points) ** 2, "plane"))
    return {
        "alpha": np.array(points),
        "temperature": np.array([attacked.temperature]),
        **stacked(everywhere, (len(points), len(points))),
    }


def _drawn(model: nn.Module, draws: int, seed: int) -> list[Direction]:
    if draws < 1:
        raise ConfigError(f"landscape: found {draws} draws, expected at least 1")
    return [filter_normalised(model, noise.generator_for(seed, draw)) for draw in range(draws)]
