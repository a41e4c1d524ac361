"""Temperature: the one number by which logits are divided so that confidence fits accuracy.

A network that is merely less confident has smaller margins, smoother probabilities and closer errors, though
every decision stays as it was. Dividing each network's logits by its own best temperature (Guo et al. 2017)
takes that out: the rest is no matter of the logits' scale. So every quantity that depends on confidence
is given "at matched temperature" too.

The temperature is the one that fits the unattacked *test* images best, one for a network. On training images
there may be none: a network that has learnt them by heart fits better the colder it is, without end. The fit
has seen the images that it is measured on, but it is one number for a thousand of them: their mean loss at it
is too low by about 1 / (2n) nats, and for every network alike.

Where every image is right there is no best temperature either: the loss falls for ever as T does, and at the
coldest T that one looks at every network is flat and sure. Nothing is measured then: T is NaN, and so is all
that is measured at it.
"""

import math

import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq
from torch import Tensor

from robustlens import losses

COLDEST, HOTTEST = -5.0, 5.0
"""Range of log T in which the best is looked for."""
MISSING = (
    "no temperature between e^-5 and e^5 fits these logits best: every image is right (the colder the "
    "better), they say nothing of the labels (the hotter the better), or their scale is far from 1; nothing "
    "is measured at one"
)


def best_temperature(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> float:
    """The T that minimises the mean cross entropy of `logits / T` (Guo et al. 2017), within e^-5 .. e^5.

    The mean cross entropy is convex in 1 / T, so the zero of its derivative is the minimum: found to 1e-12 in
    log T, which makes what is measured at it independent of a factor on all logits. Where the loss falls
    towards an end of the range, as it does where every image is right, there is no best, and T is NaN.

    Images with logits that are NaN or plus infinity are left out; without any other, T is NaN.
    """
    sound = ~losses.is_broken(logits)
    if not bool(sound.any()):
        return math.nan
    exact = logits[sound].double().clamp_min(torch.finfo(torch.float64).min)
    own = exact.gather(1, y[sound][:, None])

    def slope(log_temperature: float) -> float:
        """Mean of E_p[z] - z_y, the derivative of the loss by 1 / T: falls as T grows."""
        p = (exact * math.exp(-log_temperature)).softmax(1)
        return float((p * (exact - own)).sum(1).mean())

    if slope(COLDEST) <= 0 or slope(HOTTEST) >= 0:
        return math.nan
    return math.exp(brentq(slope, COLDEST, HOTTEST, xtol=1e-12))


def why_missing(temperature: float, of: str = "") -> dict[str, str]:
    """An entry of a measurement's value that says why its matched numbers are missing; empty if they are not.

    `of` begins its name, where a measurement has several temperatures.

    >>> why_missing(1.5)
    {}
    """
    return {f"{of}matched_missing": MISSING} if math.isnan(temperature) else {}
