"""How near an attack comes to the best known one: AttackBench's optimality of distance curves. No torch.

Cinà et al. 2024, AttackBench: evaluating gradient-based attacks for adversarial examples. An attack gives a
distance for each image: 0 where the model errs without an attack, infinity where it found nothing. The curve
of an attack is the robust accuracy that it leaves at each radius, its envelope that of the smallest distance
of each image that any attack found.
"""

from collections.abc import Sequence

import numpy as np

from robustlens.errors import DataError
from robustlens.stats.bootstrap import Array, Bootstrap, Examples, Quantity, interval_over_examples, ratio
from robustlens.stats.intervals import Interval


def nearest(distances: Sequence[Array]) -> Array:
    """The smallest distance of each image, (n,), that any of several attacks found."""
    return np.min(np.stack([np.asarray(each, dtype=np.float64) for each in distances]), axis=0)


def robust_accuracy(distances: Array, radii: Array) -> Array:
    """Share of images at each of the `radii` (k,) whose distance is larger: the curve of an attack.

    >>> robust_accuracy(np.array([0.0, 1.0, 2.0, np.inf]), np.array([0.0, 1.0, 5.0])).tolist()
    [0.75, 0.5, 0.25]
    """
    return np.asarray((distances[None, :] > radii[:, None]).mean(1))


def local_optimality(distances: Array, best: Array) -> float:
    """Optimality of an attack on one model: 1 for the best known distances, 0 where it finds nothing.

    One minus the area between the curve of the attack and its envelope, over the area between the envelope
    and the clean accuracy, both up to the radius D at which the envelope has fallen to zero. The area under a
    curve up to D is the mean of min(distance, D), so this is 1 - sum(min(d, D) - d*) / sum(D - d*), sums over
    the images that are right at x.

    Args:
        distances: of the attack, (n,); 0 for errors without an attack, infinity where nothing was found.
        best: the smallest distances that any attack found, (n,), the same images.

    Raises:
        DataError: shapes that differ, a NaN or a negative distance, one below the best, errors that are not
            the same images, or no image whose best distance is below the largest.

    Where we differ from AttackBench's code: it takes areas by the trapezoidal rule between the distances that
    occur, here curves are the steps that they are. Images that no attack broke end both curves at the largest
    finite distance; there they would make the optimality undefined.

    >>> local_optimality(np.array([0.0, 2.0, 4.0, 4.0]), np.array([0.0, 1.0, 2.0, 4.0]))
    0.4
    """
    excess, span = _areas(distances, best)
    return float(1 - excess.sum() / span.sum())


def global_optimality(by_model: Sequence[tuple[Array, Array]]) -> float:
    """Mean of the local optimality over models; each is (distances, best)."""
    if not by_model:
        raise DataError("optimality: found no model, expected at least 1")
    return float(np.mean([local_optimality(*model) for model in by_model]))


def optimality_interval(by_model: Sequence[tuple[Array, Array]], bootstrap: Bootstrap) -> Interval:
    """Global optimality with its 95 % bootstrap interval over images, the same ones for every model.

    D stays that of all images, and the models are taken as they are. One model: its local optimality.

    Raises:
        DataError: as `local_optimality`, or models with different numbers of images.
    """
    value = global_optimality(by_model)
    numbers = {len(distances) for distances, _ in by_model}
    if len(numbers) > 1:
        raise DataError(f"optimality: found {sorted(numbers)} images, expected the same ones for every model")
    examples = Examples("images", numbers.pop())
    shortfalls = [ratio(examples, *_areas(*model)) for model in by_model]

    def mean(weights: Array) -> Array:
        return 1 - np.mean([shortfall.function(weights) for shortfall in shortfalls], axis=0)

    draws = bootstrap.draws(Quantity(mean, (examples,)))
    interval = interval_over_examples(value, draws)
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (interval.low, interval.high))
    return Interval(value, low, high)


def _areas(distances: Array, best: Array) -> tuple[Array, Array]:
    """For each image what it adds to the area above the envelope, and to all that is above it."""
    distances, best = (np.asarray(each, dtype=np.float64) for each in (distances, best))
    _check(distances, best)
    finite = best[np.isfinite(best)]
    largest = finite.max() if len(finite) else 0.0
    span = np.where(best > 0, largest - best.clip(max=largest), 0.0)
    if not span.sum() > 0:
        raise DataError("optimality: found no image whose best distance lies below the largest, expected one")
    return distances.clip(max=largest) - best.clip(max=largest), span


def _check(distances: Array, best: Array) -> None:
    if distances.ndim != 1 or distances.shape != best.shape:
        shapes = f"{distances.shape} distances and {best.shape} best ones"
        raise DataError(f"optimality: found {shapes}, expected one of each an image")
    if not ((distances >= 0).all() and (best >= 0).all()):
        raise DataError("optimality: found a distance that is negative or NaN, expected numbers >= 0")
    if not (distances >= best).all():
        image = int(np.argmax(distances < best))
        shown = f"{distances[image]} for image {image}, best {best[image]}"
        raise DataError(f"optimality: found {shown}; expected the best to hold the smallest of all attacks")
    if not ((distances == 0) == (best == 0)).all():
        raise DataError(
            "optimality: found images at distance 0 for some attacks only, expected the same errors"
        )
