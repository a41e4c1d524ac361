"""The landscapes of a subject, and how far they rise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustlens.explain.landscape import weights
from robustlens.explain.landscape.inputs import input_landscape
from robustlens.explain.landscape.weights import ALPHAS, landscape
from robustlens.explain.measure import Measurement, Subject


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
    plane: int = 0,
    plane_examples: int = 64,
    input: bool = False,
) -> Measurement:
    """The landscape on test and training images, and how far it rises.

    `plane` asks for the two-dimensional landscape too, on that many points a side from -1 to 1 and on
    `plane_examples` images; `input` for the loss around the images.
    """
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
        if plane:
            arrays |= _plane(subject, split, plane, plane_examples, steps)
        if input:
            arrays |= _input(subject, split, examples, steps)
    kinds = {"rise": "loss", "matched_rise": "matched", "error_rise": "error"}
    first = splits[0]
    value: dict[str, Any] = {
        name: rises(arrays["alpha"], arrays[f"{first}_{kind}"]) for name, kind in kinds.items()
    }
    return Measurement(
        {**value, "split": first, "draws": draws, "steps": steps, "eps": subject.threat.eps},
        unit="nats (error_rise: share of images)",
        what="How far the adversarial loss rises when the weights move along filter-normalised directions.",
        source="Wu, Xia and Wang 2020, section 3; filter normalisation by Li et al. 2018",
        arrays=arrays,
    )


def _plane(subject: Subject, split: str, points: int, examples: int, steps: int) -> dict[str, np.ndarray]:
    """Means over images on the plane: loss, matched loss and error, (k, k) each."""
    found = weights.plane(
        subject.model,
        *subject.images(split, examples),
        subject.threat,
        alphas=np.linspace(-1, 1, points).tolist(),
        steps=steps,
        batch_size=subject.batch_size,
        seed=subject.seed,
        progress=subject.listen,
    )
    kinds = ("loss", "matched", "error")
    means = {f"{split}_plane_{kind}": found[kind].mean(axis=2, dtype=np.float64) for kind in kinds}
    return {"plane_alpha": found["alpha"], **means}


def _input(subject: Subject, split: str, examples: int, steps: int) -> dict[str, np.ndarray]:
    """Means over images around x, along the gradient and at random: loss and error, (k, k) each."""
    found = input_landscape(
        subject.model,
        *subject.images(split, examples),
        subject.threat,
        steps=steps,
        batch_size=subject.batch_size,
        seed=subject.seed,
    )
    means = {
        f"{split}_input_{kind}": found[kind].mean(axis=2, dtype=np.float64) for kind in ("loss", "error")
    }
    return {"input_radius": found["radius"], **means}
