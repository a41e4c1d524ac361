"""The landscapes of a subject, and how far they rise."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from robustlens.config import Number
from robustlens.explain.landscape import weights
from robustlens.explain.landscape.inputs import input_landscape
from robustlens.explain.landscape.points import KINDS
from robustlens.explain.landscape.weights import ALPHAS, landscape
from robustlens.explain.measure import Count, Measurement, SplitName, SplitNames, Subject
from robustlens.explain.temperature import why_missing


def rises(alpha: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Mean of g(+-a) - g(0) over images and draws, for every a > 0 on the grid (both signs where known)."""
    level = values.astype(np.float64).mean(axis=(1, 2))
    origin = level[np.flatnonzero(alpha == 0)[0]]
    sizes = sorted({abs(a) for a in alpha.tolist()} - {0.0})
    return {f"{size:g}": float(level[np.isclose(np.abs(alpha), size)].mean() - origin) for size in sizes}


def measure_landscape(
    subject: Subject,
    *,
    alphas: Annotated[Sequence[Number], Field(min_length=1)] = ALPHAS,
    draws: Count = 1,
    steps: Count = 10,
    examples: Count = 256,
    splits: SplitNames = ("test", "train"),
    plane: Annotated[int, Field(ge=0)] = 0,
    plane_examples: Count = 64,
    input: bool = False,
) -> Measurement:
    """The landscape on test and training images, and how far it rises.

    `plane` asks for the two-dimensional landscape too, on that many points a side from -1 to 1 and on
    `plane_examples` images; `input` for the loss around the images.
    """
    arrays: dict[str, np.ndarray] = {}
    for split in splits:
        values = landscape(
            subject.model,
            *subject.images(split, examples),
            subject.threat,
            alphas=alphas,
            draws=draws,
            steps=steps,
            **subject.settings,
            progress=subject.progress,
        )
        arrays["alpha"] = values.pop("alpha")
        arrays |= subject.arrays(split, examples, values)
        if plane:
            arrays |= _plane(subject, split, plane, plane_examples, steps)
        if input:
            arrays |= _input(subject, split, examples, steps)
    first, alpha = splits[0], arrays["alpha"]
    names = {"loss": "rise", "matched": "matched_rise", "error": "error_rise"}
    conditions = {"split": first, "draws": draws, "steps": steps, "eps": subject.threat.eps}
    return Measurement(
        {
            **{name: rises(alpha, arrays[f"{first}_{kind}"]) for kind, name in names.items()},
            **_why_missing(arrays, splits, plane > 0),
            **conditions,
        },
        unit="nats (error_rise: share of images)",
        what="How far the adversarial loss rises when the weights move along filter-normalised directions.",
        source="Wu, Xia and Wang 2020, section 3; filter normalisation by Li et al. 2018",
        conditions={**conditions, "alphas": alpha.tolist(), "examples": len(arrays[f"{first}_index"])},
        arrays=arrays,
    )


def _plane(
    subject: Subject, split: SplitName, points: int, examples: int, steps: int
) -> dict[str, np.ndarray]:
    """Means over images on the plane: loss, matched loss and error, (k, k) each."""
    values = weights.plane(
        subject.model,
        *subject.images(split, examples),
        subject.threat,
        alphas=np.linspace(-1, 1, points).tolist(),
        steps=steps,
        **subject.settings,
        progress=subject.progress,
    )
    return {"plane_alpha": values["alpha"], **_means(values, f"{split}_plane")}


def _input(subject: Subject, split: SplitName, examples: int, steps: int) -> dict[str, np.ndarray]:
    """Means over images around x, along the gradient and at random: loss and error, (k, k) each."""
    values = input_landscape(
        subject.model, *subject.images(split, examples), subject.threat, steps=steps, **subject.settings
    )
    return {"input_radius": values["radius"], **_means(values, f"{split}_input")}


def _means(values: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Means over images of each kind of value that is there."""
    kinds = [kind for kind in KINDS if kind in values]
    return {f"{name}_{kind}": values[kind].mean(axis=2, dtype=np.float64) for kind in kinds}


def _why_missing(arrays: Mapping[str, np.ndarray], splits: Sequence[str], plane: bool) -> dict[str, str]:
    """Reasons for matched values that are missing; the first split's have no prefix."""
    reasons: dict[str, str] = {}
    for split in splits:
        prefix = "" if split == splits[0] else f"{split}_"
        reasons |= why_missing(float(arrays[f"{split}_temperature"][0]), prefix)
        if plane:
            reasons |= why_missing(float(arrays[f"{split}_plane_matched"][0, 0]), f"{prefix}plane_")
    return reasons
