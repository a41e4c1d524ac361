"""Topics of the first screen: properties that robustness may change, and the numbers that show it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import methodcaller

from robustlens.config import eps_text
from robustlens.report import quantities
from robustlens.report.data import Network, Quantity, ReportData
from robustlens.report.text.wording import minus, number, points
from robustlens.stats.intervals import Interval
from robustlens.stats.misclassification import TAU

Writer = Callable[[float], str]


@dataclass(frozen=True)
class NamedQuantity:
    """A number of a network, what a sentence calls it, and how it is written.

    `layers` names the measure of which the sentence counts the layers that went the same way.
    """

    subject: str
    read: Quantity
    write: Writer
    layers: str = ""

    def of(self, network: Network) -> Interval | None:
        """The number of a network, over its seeds."""
        is_share = self.write is _percent
        return network.share_over_seeds(self.read) if is_share else network.over_seeds(self.read)


@dataclass(frozen=True)
class Topic:
    """One property that robustness may change. `unit` explains the numbers; `figure` shows them in full.

    The first `drawn` of the quantities, which have one scale, are drawn.
    """

    title: str
    unit: str
    figure: str
    quantities: tuple[NamedQuantity, ...]
    drawn: int = 1


def topics(data: ReportData) -> tuple[Topic, ...]:
    """The six topics, in the order of the page."""
    threat = data.first(lambda evaluation: evaluation.threat)
    under = f" ({threat.norm} {eps_text(threat.eps)})" if threat else ""
    alpha = quantities.common_alpha(data)
    rise = partial(quantities.landscape_rise, quantities.ALPHA if alpha is None else alpha)
    spectrum, activations = (partial(quantities.mean_spread, name) for name in ("spectrum", "activations"))
    return (
        Topic(
            "Accuracy",
            f"hollow clean, filled attacked{under}",
            "robust-accuracy",
            (
                NamedQuantity("accuracy", methodcaller("clean"), _percent),
                NamedQuantity("robust accuracy", methodcaller("robust"), _percent),
            ),
            drawn=2,
        ),
        Topic(
            "Confidence",
            f"lost closely: wrong by a margin below {TAU:g}",
            "confidence",
            (
                NamedQuantity("confidence", quantities.confidence, _decimal),
                NamedQuantity("the share of images lost closely", quantities.indecisive_errors, _percent),
            ),
        ),
        Topic(
            "Margins",
            f"test images within {TAU:g} of the boundary",
            "margins",
            (
                NamedQuantity("the share near the decision boundary", quantities.near_boundary, _percent),
                NamedQuantity("the spread of the margins", quantities.margin_spread, _decimal),
            ),
        ),
        Topic(
            "Change under attack",
            f"mean{_fixed_attack(data)}",
            "smoothness",
            (NamedQuantity("the margin lost to the attack", quantities.change_under_attack, _decimal),),
        ),
        Topic(
            "Singular values",
            "standard deviation, mean over layers",
            "spectrum-spread",
            (
                NamedQuantity("the spread of singular values", spectrum, _decimal, "spectrum"),
                NamedQuantity("the spread of activation norms", activations, _decimal),
            ),
        ),
        Topic(
            "Landscape",
            f"adversarial loss, nats, at |alpha| = {alpha or 0:g}",
            "landscape",
            (NamedQuantity("the rise of the loss around the weights", rise, _decimal),),
        ),
    )


def _fixed_attack(data: ReportData) -> str:
    for run in data.runs:
        measure = run.explanation.measures.get("smoothness") if run.explanation else None
        if measure and {"eps", "steps"} <= measure.conditions.keys():
            return f" under PGD-{measure.conditions['steps']} at eps {measure.conditions['eps']:g}"
    return " under a fixed attack"


def _percent(value: float) -> str:
    return f"{points(value)} %"


def _decimal(value: float) -> str:
    """Two decimals, or two digits of what is smaller.

    >>> _decimal(1.534), _decimal(0.0042), _decimal(0.0)
    ('1.53', '0.0042', '0.00')
    """
    return minus(f"{value:.2f}") if abs(value) >= 0.095 or value == 0 else number(value, 2)
