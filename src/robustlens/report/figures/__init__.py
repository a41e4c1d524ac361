"""Every figure of the report, in the order of the page.

A new plot is one function, from the collected study to a `Figure`, and one line here.
"""

from collections.abc import Callable

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Figure
from robustlens.report.figures import accuracy as plots_accuracy
from robustlens.report.figures import bound as plots_bound
from robustlens.report.figures import landscape as plots_landscape
from robustlens.report.figures import margins as plots_margins
from robustlens.report.figures import misclassification as plots_mistakes
from robustlens.report.figures import network as plots_network
from robustlens.report.figures import training as plots_training

FIGURES: tuple[Callable[[ReportData], Figure], ...] = (
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


def figures(study: ReportData) -> list[Figure]:
    """Every figure; one without views says what is missing."""
    return [draw(study) for draw in FIGURES]
