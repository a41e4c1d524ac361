"""Checks that attack: without gradients, much further than the evaluation, and with more steps.

A count speaks against an evaluation where it is too large for chance: where an evaluation that misses a small
share of what it leaves standing would show as many in less than one sample of a thousand. The shares lie
above what sound models show (docs/flags.md).
"""

from dataclasses import dataclass

from scipy.stats import binom

from robustlens import attacks
from robustlens.reliability.diagnostics import Diagnostics

_CHANCE = 1e-3


@dataclass(frozen=True)
class Count:
    """`found` of `of` standing images fell; `accuracy` is the share of all images that stood before."""

    found: int
    of: int
    accuracy: float = 1.0

    def exceeds(self, share: float, points: float = 0.0) -> bool:
        """Whether chance hardly shows as many, if `share` of what stands falls, or `points` of the accuracy.

        Points matter near 0 %: the few images that are left are the hardest, and any further attack breaks
        many of them.
        """
        if self.found == 0 or self.accuracy <= 0:
            return False
        chance = min(1.0, max(share, points / self.accuracy))
        return float(binom.sf(self.found - 1, self.of, chance)) < _CHANCE


def masked_gradient(seen: Diagnostics) -> str | None:
    """A score-based attack against gradient attacks, one of them long: that a suite is weak masks nothing.

    Where the suite has a score-based attack after a gradient attack, its own counts tell, unless APGD-100 on
    the margin also breaks what fell in the sample. Otherwise Square with 200 queries attacks what stands even
    after APGD-100.
    """
    suite = _by_suite(seen)
    count = suite or _by_square(seen)
    if not count.exceeds(share=0.03, points=0.01) or (suite and _fall_to_gradients_too(seen)):
        return None
    return (
        f"a score-based attack breaks {count.found} of {count.of} images that no gradient attack has broken"
    )


def huge_eps(seen: Diagnostics) -> str | None:
    """PGD-20 on the margin at a radius at which there is an adversarial image for certain.

    Every image has another image of the sample within this radius that the model takes for another class: the
    attack could walk straight there. Where all are taken for one class there is no such radius, and no check.
    """
    eps = _certain_eps(seen)
    if eps is None:
        return None
    far = attacks.PGD(seen.threat.at(eps), loss="margin", random_start=False, stop_at_success=True)
    count = Count(len(seen.survivors(far, seen.right)), len(seen.right))
    if not count.exceeds(share=0.05):
        return None
    return (
        f"{count.found} of {count.of} images survive a gradient attack at eps {eps:.3g}, "
        "where images of other classes are within reach"
    )


def more_steps(seen: Diagnostics) -> str | None:
    """APGD-100 on the margin, from another start, on what stands."""
    standing = len(seen.standing)
    count = Count(standing - len(seen.outlasting), standing, seen.robust_accuracy)
    if not count.exceeds(share=0.05, points=0.02):
        return None
    return f"100 more gradient steps from another start break {count.found} of {count.of} standing images"


def _by_suite(seen: Diagnostics) -> Count | None:
    """What fell to score-based attacks after a gradient attack; None where the suite has none."""
    found, climbed, compared = 0, False, False
    for count, uses_gradients in seen.fell.values():
        if not uses_gradients and climbed:
            found, compared = found + count, True
        climbed |= uses_gradients
    if not compared:
        return None
    images = len(seen.all_logits)
    standing = found + round(seen.robust_accuracy * images)
    return Count(found, standing, standing / images)


def _fall_to_gradients_too(seen: Diagnostics) -> bool:
    """Whether the longer gradient attack breaks what fell in the evaluation, but for a chance few."""
    left = len(seen.survivors(seen.longer, seen.fallen))
    return not Count(left, len(seen.fallen)).exceeds(share=0.03)


def _by_square(seen: Diagnostics) -> Count:
    """What a short Square breaks of the images that outlast all gradient attacks, theirs and ours."""
    standing, outlasting = len(seen.standing), len(seen.outlasting)
    left = len(seen.survivors(attacks.get("square-200", seen.threat), seen.outlasting))
    return Count(outlasting - left, outlasting, seen.robust_accuracy * outlasting / max(standing, 1))


def _certain_eps(seen: Diagnostics) -> float | None:
    """The smallest radius at which each image reaches one of another predicted class; None: there is none."""
    predicted = seen.logits.argmax(1)
    if len(predicted.unique()) < 2:
        return None
    nearest = []
    for row in seen.right.tolist():
        others = seen.x[predicted != predicted[row]]
        nearest.append(float(seen.threat.distance(others, seen.x[row].expand_as(others)).min()))
    return max(nearest, default=0.0) or None
