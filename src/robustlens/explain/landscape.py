"""The adversarial weight-loss landscape: how the adversarial loss rises as the weights move away.

    g(alpha) = mean over images of max_{x' near x} CE(f_{w + alpha d}(x'), y)

with the maximum attacked anew at every point, and `d` a random direction with the scale of the weights,
filter by filter (Li et al. 2018). A network that is less confident looks flatter by the scale of its logits
alone, so the error rate and a temperature-matched loss are drawn beside the loss.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.attacks import PGD
from robustlens.errors import ConfigError
from robustlens.explain.margins import attacked_logits, logits_of
from robustlens.explain.measure import Measurement, Subject
from robustlens.explain.temperature import best_temperature
from robustlens.progress import Event, Listener, silent
from robustlens.threat import ThreatModel
from robustlens.weights import displaced

ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)

Direction = dict[str, Tensor]
Value = TypeVar("Value")


def filter_normalised(model: nn.Module, generator: torch.Generator) -> Direction:
    """A Gaussian direction, each filter scaled to the norm of the same filter of the weights.

    A filter is a slice along the first dimension (Li et al. 2018, section 4). Parameters with one
    dimension do not move and are not in the result.
    """
    direction = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            draw = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            rows = draw.flatten(1)
            lengths = weight.detach().float().cpu().flatten(1).norm(dim=1, keepdim=True)
            rows = rows * lengths / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            direction[name] = rows.view(weight.shape).to(weight)
    return direction


def along(
    model: nn.Module, direction: Direction, alphas: Sequence[float], value: Callable[[], Value]
) -> Iterator[Value]:
    """Anything, evaluated at w + alpha d for each alpha in turn; between two values the weights are w."""
    weights = [model.get_parameter(name) for name in direction]
    for alpha in alphas:
        with displaced(weights, list(direction.values()), alpha):
            found = value()
        yield found


def landscape(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
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
        attack.
        temperature: (1,).
    """
    if draws < 1 or not len(x):
        raise ConfigError(f"landscape: found {draws} draws and {len(x)} images, expected at least 1 of each")
    points = sorted({0.0, *(float(alpha) for alpha in alphas)})
    if directions is None:
        directions = [filter_normalised(model, noise.generator_for(seed, draw)) for draw in range(draws)]
    attack = PGD(threat, steps=steps, seed=seed)
    labels = y.cpu()

    def attacked() -> Tensor:
        return attacked_logits(model, x, y, attack, batch_size)

    here = attacked()  # alpha = 0 is the same point on every line
    # Of the clean logits: attacked ones may be worse than chance, and then no temperature but infinity fits.
    temperature = best_temperature(logits_of(model, x, batch_size), labels)
    shape = (len(points), len(directions), len(x))
    found = {"loss": np.empty(shape, np.float32), "matched": np.empty(shape, np.float32)}
    found["error"] = np.empty(shape, bool)
    for column, direction in enumerate(directions):
        moved = along(model, direction, [alpha for alpha in points if alpha != 0], attacked)
        for row, alpha in enumerate(points):
            logits = here if alpha == 0 else next(moved)
            found["loss"][row, column] = losses.cross_entropy(logits, labels).numpy()
            found["matched"][row, column] = losses.cross_entropy(logits / temperature, labels).numpy()
            found["error"][row, column] = losses.is_wrong(logits, labels).numpy()
            done = column * len(points) + row + 1
            progress(Event("landscape", done, len(points) * len(directions), f"alpha {alpha:g}"))
    return {"alpha": np.array(points), "temperature": np.array([temperature]), **found}


def rises(alpha: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Mean of g(+-a) - g(0) over images and draws, for every a > 0 on the grid (both signs where known)."""
    level = values.astype(np.float64).mean(axis=(1, 2))
    origin = level[np.flatnonzero(alpha == 0)[0]]
    sizes = sorted({abs(a) for a in alpha.tolist()} - {0.0})
    return {f"{size:g}": float(level[np.isclose(np.abs(alpha), size)].mean() - origin) for size in sizes}


def measure_landscape(
    subject: Subject,
    *,
    alphas: Sequence[float] = ALPHAS,
    draws: int = 1,
    steps: int = 10,
    examples: int = 256,
    splits: Sequence[str] = ("test", "train"),
) -> Measurement:
    """The landscape on test and training images, and how far it rises."""
    arrays: dict[str, np.ndarray] = {}
    for split in splits:
        found = landscape(
            subject.model,
            *subject.images(split, examples),
            subject.threat,
            alphas=alphas,
            draws=draws,
            steps=steps,
            batch_size=subject.batch_size,
            seed=subject.seed,
            progress=subject.listen,
        )
        arrays["alpha"] = found.pop("alpha")
        arrays[f"{split}_index"] = getattr(subject, split).index[: found["loss"].shape[2]].numpy()
        arrays |= {f"{split}_{name}": array for name, array in found.items()}
    kinds = {"rise": "loss", "matched_rise": "matched", "error_rise": "error"}
    first = splits[0]
    value = {name: rises(arrays["alpha"], arrays[f"{first}_{kind}"]) for name, kind in kinds.items()}
    return Measurement(
        {**value, "split": first, "draws": draws, "steps": steps, "eps": subject.threat.eps},
        unit="nats (error_rise: share of images)",
        what="How far the adversarial loss rises when the weights move along filter-normalised directions.",
        source="Wu, Xia and Wang 2020, section 3; filter normalisation by Li et al. 2018",
        arrays=arrays,
    )
