"""Figures of the activations: norms of what every layer reads, and their spread."""

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, points_for, view
from robustlens.report.figures.layers import spread_views
from robustlens.report.figures.panels import BELOW, ecdf_series, views


def activations(data: ReportData) -> Figure:
    """Distribution of the norms of what one layer reads, a layer at a time."""
    layers = data.layers("activations")
    points = points_for(2 * len(layers) * len(data.networks))

    def panels(layer: str) -> list[Panel]:
        norms = data.arrays("activations", layer)
        scaled = [(label, [array / (array.mean() or 1) for array in seeds]) for label, seeds in norms]
        return [
            Panel("Norm of what the layer reads", Axis("L2 norm"), BELOW, ecdf_series(norms, points)),
            Panel("Divided by its mean", Axis("L2 norm / mean"), BELOW, ecdf_series(scaled, points)),
        ]

    return Figure(
        "activations",
        "Activations",
        "Norms of the activations on test images",
        "The steeper a curve in the right plot, the more alike the norms of different images: Wen et al. "
        "expect this of robust networks.",
        views(*(view(layer, panels(layer)) for layer in layers)),
        selector="Layer",
    )


def activation_spread(data: ReportData) -> Figure:
    """Spread of the activation norms per layer and against strength."""
    return Figure(
        "activation-spread",
        "Activations",
        "Spread of the activation norms",
        "Look for std / mean (the coefficient of variation) that falls with strength, most of all in the "
        "layers where the singular values lost their spread.",
        spread_views(data, "activations", "activation norms"),
        selector="Layer",
    )
