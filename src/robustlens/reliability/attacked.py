"""Checks that attack: without gradients, much further than the evaluation, and with more steps.

A count speaks against an evaluation where it is too large for chance: where an evaluation that misses a small
share of its survivors would show as many in less than one sample of a thousand. The shares lie
above what sound models show (docs/flags.md).
"""

from dataclasses import dataclass

from robustlens import attacks
from robustlens.reliability.diagnostics import Diagnostics
from robustlens.stats.chance import exceeds_chance


@dataclass(frozen=True)
class Count:
    """Survivors that a further attack broke, `broken` of `of`.

    `accuracy` is the share of all images that they are.
    """

    broken: int
    of: int
    accuracy: float = 1.0

    def exceeds(self, share: float, points: float = 0.0) -> bool:
        """Whether chance hardly shows as many, if `share` of survivors break, or `points` of the accuracy.

        Points matter near 0 %: the few images that are left are the hardest, and any further attack breaks
        many of them.
        """
        if self.accuracy <= 0:
            return False
        return exceeds_chance(self.broken, self.of, min(1.0, max(share, points / self.accuracy)))


def masked_gradient(diagnostics: Diagnostics) -> str | None:
    """A score-based attack against gradient attacks, one of them long: that a suite is weak masks nothing.

    Where the suite has a score-based attack after a gradient attack, its own counts tell, unless APGD-100 on
    the margin also breaks those images of the sample that the suite broke. Otherwise Square with 200 queries
    attacks the survivors of APGD-100.
    """
    suite = _by_suite(diagnostics)
    count = suite or _by_square(diagnostics)
    if not count.exceeds(share=0.03, points=0.01) or (suite and _gradients_suffice(diagnostics)):
        return None
    return (
        f"a score-based attack breaks {count.broken} of {count.of} images that no gradient attack has broken"
    )


def huge_eps(diagnostics: Diagnostics) -> str | None:
    """PGD-20 on the margin at a radius at which there is an adversarial image for certain.

    Every image has another image of the sample within this radius that the model takes for another class: the
    attack could walk straight there. Where all are taken for one class there is no such radius, and no check.
    """
    eps = _certain_eps(diagnostics)
    if eps is None:
        return None
    far = attacks.PGD(diagnostics.threat.at(eps), loss="margin", random_start=False, stop_at_success=True)
    count = Count(len(diagnostics.survivors_of(far, diagnostics.right)), len(diagnostics.right))
    if not count.exceeds(share=0.05):
        return None
    return (
        f"{count.broken} of {count.of} images survive a gradient attack at eps {eps:.3g}, "
        "where images of other classes are within reach"
    )


def more_steps(diagnostics: Diagnostics) -> str | None:
    """APGD-100 on the margin, from another start, on the survivors."""
    survivors = len(diagnostics.survivors)
    count = Count(survivors - len(diagnostics.long_survivors), survivors, diagnostics.robust_accuracy)
    if not count.exceeds(share=0.05, points=0.02):
        return None
    return f"100 more gradient steps from another start break {count.broken} of {count.of} standing images"


def _by_suite(diagnostics: Diagnostics) -> Count | None:
    """Images that score-based attacks broke after a gradient attack; None where the suite has none."""
    broken, after_gradients, compared = 0, False, False
    for count, uses_gradients in diagnostics.broken_by.values():
        if not uses_gradients and after_gradients:
            broken, compared = broken + count, True
        after_gradients |= uses_gradients
    if not compared:
        return None
    images = len(diagnostics.all_logits)
    survivors = broken + round(diagnostics.robust_accuracy * images)
    return Count(broken, survivors, survivors / images)


def _gradients_suffice(diagnostics: Diagnostics) -> bool:
    """Whether the long gradient attack breaks the images that the evaluation broke, but for a chance few."""
    left = len(diagnostics.survivors_of(diagnostics.long_attack, diagnostics.broken))
    return not Count(left, len(diagnostics.broken)).exceeds(share=0.03)


def _by_square(diagnostics: Diagnostics) -> Count:
    """Images that a short Square breaks of those that survive all gradient attacks, theirs and ours."""
    survivors, attacked = len(diagnostics.survivors), len(diagnostics.long_survivors)
    left = len(
        diagnostics.survivors_of(attacks.get("square-200", diagnostics.threat), diagnostics.long_survivors)
    )
    return Count(attacked - left, attacked, diagnostics.robust_accuracy * attacked / max(survivors, 1))


def _certain_eps(diagnostics: Diagnostics) -> float | None:
    """The smallest radius at which each image reaches one of another predicted class; None: there is none."""
    predicted = diagnostics.logits.argmax(1)
    if len(predicted.unique()) < 2:
        return None
    nearest = []
    for row in diagnostics.right.tolist():
        others = diagnostics.x[predicted != predicted[row]]
        nearest.append(float(diagnostics.threat.distance(others, diagnostics.x[row].expand_as(others)).min()))
    return max(nearest, default=0.0) or None
