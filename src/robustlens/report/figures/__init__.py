"""Every figure of the report, in the order of the page.

A new plot is one function, from the data of the report to a `Figure`, and one line here.
"""

from collections.abc import Callable

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Figure
from robustlens.report.figures import (
    accuracy,
    activations,
    bound,
    certified,
    concentration,
    confidence,
    curvature,
    flatness,
    gallery,
    gradients,
    landscape,
    margins,
    misclassification,
    smoothness,
    spectra,
    training,
)

FIGURES: tuple[Callable[[ReportData], Figure], ...] = (
    accuracy.robust_accuracy,
    certified.certified,
    accuracy.strength,
    gallery.gallery,
    training.training,
    training.checkpoints,
    spectra.spectrum,
    spectra.spectrum_spread,
    spectra.jacobian,
    activations.activations,
    activations.activation_spread,
    margins.margins,
    concentration.concentration,
    confidence.confidence,
    confidence.indecisive,
    misclassification.became,
    misclassification.by_class,
    smoothness.smoothness,
    smoothness.feature_change,
    gradients.input_gradients,
    bound.instance_margins,
    bound.bound,
    landscape.landscape,
    landscape.plane,
    landscape.around_images,
    gradients.adversarial_flatness,
    flatness.flatness_and_gap,
    flatness.along_training,
    curvature.curvature,
)


def figures(data: ReportData) -> list[Figure]:
    """Every figure; one without views says what is missing."""
    return [draw(data) for draw in FIGURES]
