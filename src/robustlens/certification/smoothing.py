"""Randomized smoothing: a certified L2 radius of the classifier that votes under Gaussian noise."""

from statistics import NormalDist
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from robustlens import losses, models, noise
from robustlens.certification.verdict import Certification
from robustlens.config import Count
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

Sigma = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Annotated[float, Field(gt=0, lt=1)]

_AT_ONCE = 256
"""Draws that the network gets at once."""


def smoothing(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    threat: ThreatModel,
    *,
    batch_size: int,
    radius: bool,
    sigma: Sigma = 0.25,
    n0: Count = 100,
    n: Count = 10_000,
    alpha: Level = 0.001,
    seed: int = 0,
) -> Certification:
    """CERTIFY of Cohen, Rosenfeld and Kolter 2019 (section 3.2.2), image by image.

    The most frequent prediction under `n0` draws of noise is the guess; `n` further draws bound its
    probability p from below, with confidence 1 - alpha, by Clopper and Pearson 1934. Where p > 1/2 the
    smoothed classifier predicts the guess within sigma Phi^-1(p); elsewhere it abstains, which counts as not
    certified. So an image is certified wrongly with probability alpha at most. Noise belongs to the image, so
    a verdict does not depend on the batch. Noisy pixels may lie outside the bounds, as in the paper. Differs:
    n is 10,000 by default, not 100,000, so that a radius is at most 3.2 sigma.

    Raises:
        ConfigError: the norm is not L2.
    """
    if threat.norm != "L2":
        raise ConfigError(f"certify: found norm {threat.norm}, expected L2: 'smoothing' is for no other")
    at = models.device_of(model)
    right, radii = [], []
    for image, label in zip(x, y.tolist(), strict=True):
        key = noise.keys(image[None], seed)
        first = _votes(model, image.to(at), noise.fold(key, 1), sigma, n0)
        guess = int(first.argmax())
        votes = int(_votes(model, image.to(at), noise.fold(key, 2), sigma, n)[guess])
        p = lower_confidence(votes, n, alpha)
        right.append(guess == label and p > 0.5)
        radii.append(sigma * NormalDist().inv_cdf(p) if right[-1] else 0.0)
    certain = torch.tensor(radii, dtype=torch.float64)
    kept = torch.tensor(right, dtype=torch.bool)
    return Certification(threat, kept, kept & (certain > threat.eps), None, certain, of_smoothed=True)


def lower_confidence(successes: int, trials: int, alpha: float) -> float:
    """The p below which at least so many successes have probability alpha (Clopper and Pearson 1934).

    >>> round(lower_confidence(100, 100, 0.05), 6)  # alpha^(1/100)
    0.970487
    """
    from scipy.special import betaincinv  # here, since scipy takes a while to import

    return float(betaincinv(successes, trials - successes + 1, alpha)) if successes else 0.0


def _votes(model: nn.Module, image: Tensor, key: Tensor, sigma: float, draws: int) -> Int64[Tensor, " c"]:
    """Number of draws that each class wins; one whose logits are broken is won by none."""
    parts = []
    for start in range(0, draws, _AT_ONCE):
        shape = (1, min(_AT_ONCE, draws - start), *image.shape)
        drawn = noise.normal(noise.fold(key.to(image.device), start), image.new_empty(shape))[0]
        parts.append(model(image + sigma * drawn))
    logits = torch.cat(parts)
    winners = logits.argmax(1)[~losses.is_broken(logits)]
    return winners.bincount(minlength=logits.shape[1]).cpu()
