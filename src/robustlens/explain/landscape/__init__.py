"""Adversarial loss landscapes: how the loss rises as the weights, or the images, move away.

    g(alpha) = mean over images of max_{x' near x} CE(f_{w + alpha d}(x'), y)

with the maximum attacked anew at every point, and `d` a random direction with the scale of the weights,
filter by filter (Li et al. 2018). A network that is less confident looks flatter by the scale of its logits
alone, so the error rate and a temperature-matched loss are drawn beside the loss.
"""

from robustlens.explain.landscape.directions import filter_normalised, values_on_line, values_on_plane
from robustlens.explain.landscape.inputs import input_landscape
from robustlens.explain.landscape.points import AdversarialLoss
from robustlens.explain.landscape.weights import landscape, plane

__all__ = [
    "AdversarialLoss",
    "filter_normalised",
    "input_landscape",
    "landscape",
    "plane",
    "values_on_line",
    "values_on_plane",
]
