"""Spread, extent and evenness of a spectrum."""

import numpy as np
from scipy.special import entr

from robustlens.errors import ConfigError


def summarize(singular_values: np.ndarray) -> dict[str, float | None]:
    """Spread, extent and evenness of a layer's singular values s.

    std, mean, max, min: in the units of the weight; `std` is that of all values (divided by their number).
    count: of values.

    The others are free of the weight's scale, and 0 where all values are 0:
    std_over_mean.
    stable_rank: sum s^2 / max s^2, from 1 to count (Frobenius over spectral norm, squared).
    condition: max / min; None where min is 0, since JSON knows no infinity.
    entropy: of p = s / sum s, in nats, from 0 to log(count). effective_rank: exp(entropy), from 1 to count
    (Roy and Vetterli 2007, "The effective rank").

    Raises:
        ConfigError: there are no values.
    """
    if singular_values.size == 0:
        raise ConfigError("spectrum: found no singular values, expected at least 1")
    std, mean = float(singular_values.std()), float(singular_values.mean())
    largest, least = float(singular_values.max()), float(singular_values.min())
    entropy = float(entr(singular_values / singular_values.sum()).sum()) if largest else 0.0
    return {
        "std": std,
        "mean": mean,
        "std_over_mean": std / mean if mean else 0.0,
        "max": largest,
        "min": least,
        "count": int(singular_values.size),
        "stable_rank": float(((singular_values / largest) ** 2).sum()) if largest else 0.0,
        "condition": largest / least if least else None,
        "entropy": entropy,
        "effective_rank": float(np.exp(entropy)) if largest else 0.0,
    }
