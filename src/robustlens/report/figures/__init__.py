"""Every figure of the report, in the order of the page.

A new plot is one function, from the collected study to a `Figure`, and one line here.
"""

from collections.abc import Callable

from robustlens.report.figures import accuracy as plots_accuracy, bound as plots_bound, landscape as plots_landscape, margins as plots_margins, misclassification as plots_mistakes, network as plots_network, training as plots_training
from robustlens.report.data import Collected
from robustlens.report.drawing.spec import Figure

FIGURES: tuple[Callable[[Collected], Figure], ...] = (
    plots_accuracy.robust_accuracy,
    plots_accuracy.strength,
    plots_training.training,
    plots_training.checkpoints,
    plots_network.spectrum,
    plots_network.spectrum_spread,
    plots_bound.jacobian,
    plots_network.activations,
    plots_network.activation_spread,
    plots_margins.margins,
    plots_margins.concentration,
    plots_margins.confidence,
    plots_margins.indecisive,
    plots_mistakes.became,
    plots_mistakes.by_class,
    plots_margins.smoothness,
    plots_network.feature_change,
    plots_bound.instance_margins,
    plots_bound.bound,
    plots_network.landscape,
    plots_landscape.plane,
    plots_landscape.around_images,
    plots_landscape.flatness_and_gap,
    plots_landscape.along_training,
    plots_landscape.curvature,
)


def figures(study: Collected) -> list[Figure]:
    """Every figure; one without views says what is missing."""
    return [draw(study) for draw in FIGURES]
