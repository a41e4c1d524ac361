"""Checks by name: how each looks for its flag, when that is raised, what it means, what to do."""

from collections.abc import Callable
from dataclasses import dataclass

from robustlens.reliability import attacked, gradients, outputs
from robustlens.reliability.diagnostics import Diagnostics
from robustlens.results import Flag


@dataclass(frozen=True)
class Check:
    """One way in which an evaluation goes wrong.

    Attributes:
        observe: returns what was observed, in words, or None where all is well.
        raised_if, meaning, remedy: as of its `Flag`.
        attacks: whether the check attacks, and so needs to know the threat model.
    """

    observe: Callable[[Diagnostics], str | None]
    raised_if: str
    meaning: str
    remedy: str
    attacks: bool = False

    def flag(self, name: str, observed: str) -> Flag:
        """The flag for what was observed."""
        return Flag(name, observed, self.raised_if, self.meaning, self.remedy)


CHECKS: dict[str, Check] = {
    "randomised": Check(
        outputs.randomised,
        raised_if="two passes over the same images, from the same state of the model, differ beyond rounding",
        meaning="an attack meets another model at every step, so that it is weak and the accuracy too high",
        remedy='remove the randomness, or attack the mean of many passes (the suite "rand")',
    ),
    "softmax": Check(
        outputs.softmax,
        raised_if="the outputs of every image sum to one, or their exponentials do",
        meaning="where a model is sure, its probabilities round to 0 and 1, and attacks have no gradient "
        "there",
        remedy="return the logits, before the softmax",
    ),
    "vanishing-gradient": Check(
        gradients.vanishing_gradient,
        raised_if="for 5 % of the images or more, the input gradient of the margin is zero, or so small that "
        "no change of the image would move the logits beyond rounding",
        meaning="gradient attacks are blind there and the accuracy is too high",
        remedy="look for saturation, rounding or clamping in the model, give the attack a smooth stand-in "
        "for it (BPDA), and add a score-based attack",
    ),
    "useless-gradient": Check(
        gradients.useless,
        raised_if="a layer's output responds to its input, and its gradient is missing, zero, or misses a "
        "tenth of the response to short steps",
        meaning="gradient attacks go astray in that layer, and the accuracy may be too high",
        remedy="attack around it (--adaptive, adaptive=True), and add a score-based attack",
    ),
    "quantised": Check(
        gradients.quantised,
        raised_if="the logits stand still but for jumps, at every brightness, while grey pixels brighten in "
        "steps of 1/2040 of their range",
        meaning="the model rounds its input: the gradient is zero, or not that of what the model computes",
        remedy="let the gradient pass the rounding as if it were not there (BPDA), and add a score-based "
        "attack",
    ),
    "batch-dependent": Check(
        outputs.batch_dependent,
        raised_if="the logits of an image change beyond rounding with the images beside it in the batch, or "
        "the model refuses a batch of one",
        meaning="the accuracy belongs to these batches, not to the images, and what is adversarial in one "
        "batch need not be so in another",
        remedy="use running statistics in eval mode (BatchNorm), or whatever else treats each image by "
        "itself",
    ),
    "state-changes": Check(
        outputs.state_changes,
        raised_if="after a pass in eval mode a parameter or buffer has another value, or a module is in "
        "training mode",
        meaning="each batch is judged by another model, and the numbers depend on the order of the batches",
        remedy="write nothing in eval mode, or freeze the model as it will be deployed",
    ),
    "test-time-optimisation": Check(
        outputs.test_time_optimisation,
        raised_if="a forward pass calls autograd (grad or backward)",
        meaning="the model answers each image with an optimisation, which gradients from outside do not "
        "follow",
        remedy="attack through the unrolled optimisation, and try on it what breaks the network without it",
    ),
    "masked-gradient": Check(
        attacked.masked_gradient,
        attacks=True,
        raised_if="a score-based attack (Square) breaks more of what gradient attacks left standing than "
        "chance explains if they miss 3 % of it, or one point of the accuracy",
        meaning="the gradient does not lead to adversarial images that are there; the accuracy is too high",
        remedy='run "standard" and Square with more queries, and find out what hides the gradient',
    ),
    "huge-eps": Check(
        attacked.huge_eps,
        attacks=True,
        raised_if="more images than chance explains (5 %) survive a gradient attack at a radius so large "
        "that images of other classes lie within it",
        meaning="an attack that misses adversarial images where they are for certain misses them at the "
        "evaluation's eps as well",
        remedy="believe no robust accuracy of this model before an attack brings it to zero at that radius",
    ),
    "more-steps": Check(
        attacked.more_steps,
        attacks=True,
        raised_if="100 more gradient steps (APGD on the margin, from another start) break more of what "
        "stands than chance explains if the attacks miss 5 % of it, or two points of the accuracy",
        meaning="the attacks have not converged, and the accuracy is too high",
        remedy='run the suite "standard", or take more steps and restarts until the accuracy stops falling',
    ),
    "not-finite": Check(
        outputs.not_finite,
        raised_if="an image gets a logit that is NaN or plus infinity",
        meaning="such an image counts as wrong, and its gradient says nothing",
        remedy="look for overflow, a division by zero or broken weights in the model",
    ),
    "saturated": Check(
        gradients.saturated,
        raised_if="for 5 % of the images or more, cross entropy has no gradient in the number format, though "
        "the margin has one",
        meaning="FGSM, PGD and APGD on cross entropy, smoothness and landscapes are too optimistic there",
        remedy="believe attacks on the margin or DLR (cw, apgd-t), or divide the logits by a temperature, "
        "which changes no verdict",
    ),
}
"""Every check, by the name of its flag."""


def table() -> str:
    """All flags as a Markdown table, as docs/flags.md has it."""
    rows = [
        "| flag | raised if | what it means | what to do |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {check.raised_if} | {check.meaning} | {check.remedy} |"
            for name, check in CHECKS.items()
        ),
    ]
    return "\n".join(rows)
