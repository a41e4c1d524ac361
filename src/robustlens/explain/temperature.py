"""Temperature: the one number by which logits are divided so that confidence fits accuracy.

A network that is merely less confident has smaller margins, smoother probabilities and closer errors, though
every decision stays as it was. Dividing each network's logits by its own best temperature (Guo et al. 2017)
takes that out: the rest is no matter of the logits' scale. So every quantity that depends on confidence
is given "at matched temperature" too.

The temperature is the one that fits the unattacked *test* images best, one for a network. On training images
there may be none: a network that has learnt them by heart fits better the colder it is, without end. The fit
has seen the images that it is measured on, but it is one number for a thousand of them: their mean loss at it
is too low by about 1 / (2n) nats, and for every network alike.
"""

import math

import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq
from torch import Tensor

from robustlens import losses

COLDEST, HOTTEST = -5.0, 5.0
"""Range of log T in which the best is looked for."""


def best_temperature(logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> float:
    """The T that minimises the mean cross entropy of `logits / T` (Guo et al. 2017), within e^-5 .. e^5.

    The mean cross entropy is convex in 1 / T, so the zero of its derivative is the minimum: found to 1e-12 in
    log T, which makes what is measured at it independent of a factor on all logits. Where the loss falls
    towards an end of the range, that end is returned: the coldest where every image is right.

    Images with logits that are NaN or plus infinity are left out; without any other, T is 1.
    """
    sound = ~losses.is_broken(logits)
    if not bool(sound.any()):
        return 1.0
    exact = logits[sound].double().clamp_min(torch.finfo(torch.float64).min)
    own = exact.gather(1, y[sound][:, None])

    def slope(log_temperature: float) -> float:
        """Mean of E_p[z] - z_y, the derivative of the loss by 1 / T: falls as T grows."""
        p = (exact * math.exp(-log_temperature)).softmax(1)
        return float((p * (exact - own)).sum(1).mean())

    if slope(COLDEST) <= 0:
        return math.exp(COLDEST)
    if slope(HOTTEST) >= 0:
        return math.exp(HOTTEST)
    return math.exp(brentq(slope, COLDEST, HOTTEST, xtol=1e-12))
