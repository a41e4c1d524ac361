"""Sudden changes under perturbation, and whether they come in one direction or in all.

Wen et al.: robustness "makes sudden changes smaller", of predictions and "uniformly in all directions" of
features. A mean hides what is sudden; noise is a direction that no network has chosen.
"""

from functools import partial

import numpy as np

from robustlens.claims.designs import STRENGTH_SWEEP
from robustlens.claims.evidence import RunData
from robustlens.claims.hypothesis import Hypothesis, SensitivityCheck
from robustlens.claims.wen2020.quantities import attack_of, by_layer
from robustlens.stats.bootstrap import Array, Quantity, Unusable, divide, mean
from robustlens.stats.samples import weighted_quantile

SUDDEN = 0.95
"""Share of the images that change no more than the quantile by which sudden changes are measured."""


def flips(run: RunData, *, moved: str = "attack") -> Quantity:
    """Share of test images whose prediction changes under the fixed PGD attack, or under noise."""
    key = "label_flip" if moved == "attack" else "noise_label_flip"
    examples, (flipped,) = run.measured("smoothness", "index", key)
    return mean(examples, flipped, conditions=attack_of(run))


def sudden_change(run: RunData) -> Quantity:
    """95 % quantile over test images of the fall of the probability margin under the fixed PGD attack."""
    examples, (change,) = run.measured("smoothness", "index", "probability_change")
    return Quantity(
        lambda weights: weighted_quantile(weights, change, SUDDEN), (examples,), conditions=attack_of(run)
    )


def attack_over_noise(run: RunData) -> Quantity:
    """For each layer, mean amplification of its input's change under the attack over that under noise.

    Amplification is the relative change of what the layer reads over that of the image. 1 where the network
    stretches the direction that was chosen against it no more than any other.
    """
    sizes = ("attack_input", "noise_input")
    examples, attack, layers, moved = by_layer(run, "smoothness", "attack", beside=sizes)
    _, noise = run.measured("smoothness", "index", *(f"noise/{layer}" for layer in layers))
    if not all(size.any() for size in moved):
        raise Unusable(f"{run.name}: the images were not moved")
    gains = [_amplified(*pair) for pair in zip((attack, np.stack(noise, axis=1)), moved, strict=True)]

    def of(weights: Array) -> Array:
        return divide(*(weights @ gain for gain in gains))

    return Quantity(of, (examples,), layers, conditions=attack_of(run))


def _amplified(change: Array, size: Array) -> Array:
    """Amplification in each layer, (n, layers): 0 of images that were not moved."""
    return np.divide(change, size[:, None], np.zeros_like(change), where=size[:, None] > 0)


_hypothesis = partial(Hypothesis, paper="Wen et al. 2020", design=STRENGTH_SWEEP)

HYPOTHESES = (
    _hypothesis(
        id="label-flips-fall",
        statement="Stronger adversarial training makes sudden changes of the prediction rarer.",
        quantity=(
            "share of test images whose prediction becomes another one, right or wrong, under one fixed PGD "
            "attack"
        ),
        noun="share of label flips",
        estimator=flips,
        direction=-1,
        sensitivity=(
            SensitivityCheck("the same under random noise in the ball", partial(flips, moved="noise"), -1),
        ),
    ),
    _hypothesis(
        id="directions-more-alike",
        statement="Stronger adversarial training smooths features in all directions: most layers amplify an "
        "attack less against noise.",
        quantity=(
            "for each layer, mean over test images of the amplification ||phi(x + delta) - phi(x)|| / "
            "||phi(x)|| over ||delta|| / ||x|| for delta of one fixed PGD attack, over the same for random "
            "noise in the ball; phi is what the layer reads; values are medians over layers"
        ),
        noun="amplification under attack over that under noise",
        unit="%",
        estimator=attack_over_noise,
        direction=-1,
    ),
)
"""In the order of the report."""
