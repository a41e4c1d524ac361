"""Sudden changes: how much a fixed attack moves what the network says."""

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.attacks import PGD
from robustlens.explain.margins import attacked_logits, logits_of, margins_of
from robustlens.explain.measure import Measurement, Subject
from robustlens.threat import ThreatModel


def smoothness(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    threat: ThreatModel,
    *,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Clean minus attacked, for each image, under one fixed PGD on cross entropy.

    Returns:
        margin_change: of the logit margin; probability_change: of the probability margin, in [-2, 2];
        confidence_change: of the largest probability. Positive where the attack lowers it; each (n,).
    """
    attack = PGD(threat, steps=steps, seed=seed)
    before = margins_of(logits_of(model, x, batch_size), y.cpu())
    after = margins_of(attacked_logits(model, x, y, attack, batch_size), y.cpu())
    names = {"margin_change": "logit", "probability_change": "probability", "confidence_change": "confidence"}
    return {name: before[kind] - after[kind] for name, kind in names.items()}


def measure_smoothness(subject: Subject, *, steps: int = 10, examples: int | None = None) -> Measurement:
    """Change of margin and confidence on test images under PGD at the evaluation's threat."""
    x, y = subject.images("test", examples)
    found = smoothness(
        subject.model, x, y, subject.threat, steps=steps, batch_size=subject.batch_size, seed=subject.seed
    )
    value: dict[str, float] = {"eps": subject.threat.eps, "steps": steps}
    for name, change in found.items():
        value |= {f"mean_{name}": float(change.mean()), f"std_{name}": float(change.std())}
    return Measurement(
        value,
        unit="difference of logits, or of probability",
        what="How far a fixed PGD lowers the margin and the confidence of each test image.",
        source="Wen, Li and Jia 2020, section 5 (sudden changes of prediction)",
        arrays={**found, "index": subject.test.index.numpy()[: len(x)]},
    )
