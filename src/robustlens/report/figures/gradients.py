"""Figures of input gradients, and of the loss at the adversarial images that following them finds."""

from collections.abc import Callable

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, floats, view
from robustlens.report.figures.panels import BELOW, ecdf_series, interval_series, views
from robustlens.stats.intervals import Interval

QUANTITIES = (
    ("Sparsity", "Gini index", "gini"),
    ("Nearness to the object", "correlation with the contrast of the image", "contrast"),
    ("On the object", "share on the foreground, less its area", "foreground"),
)
"""Numbers of an image's gradient: title, axis, and its array."""


def input_gradients(data: ReportData) -> Figure:
    """How sparse each network's input gradients are, and how close to what the images show."""
    panels = [
        Panel(title, Axis(unit), BELOW, ecdf_series(data.arrays("gradients", f"test_{key}")))
        for title, unit, key in QUANTITIES
    ]
    return Figure(
        "input-gradients",
        "Smoothness",
        "Sparsity of the input gradients, and their nearness to the object",
        "The gradient of the loss by each test image. Robust networks should lie further to the right: fewer "
        "pixels matter, and they are those where the image has something to show.",
        views(view("", panels)),
        missing="It takes the measure `gradients`.",
    )


def adversarial_flatness(data: ReportData) -> Figure:
    """Sharpness and confidence at the images that each radius breaks, against the same images unattacked."""
    ratio = Panel(
        "Sharpness at the adversarial image",
        Axis("radius of the attack"),
        Axis("over that at the same image unattacked", kind="log"),
        _over_radii(data, _sharpness_ratio),
    )
    confidence = Panel(
        "Confidence there",
        Axis("radius of the attack"),
        Axis("median of the largest probability"),
        _over_radii(data, lambda network, radius: network.number("sharpness", radius, "confidence")),
    )
    return Figure(
        "adversarial-flatness",
        "Landscape",
        "Flatness of the loss at adversarial images",
        "Walter et al.: far from the image the network is confidently wrong, and its loss is flat there. A "
        "line that falls below 1 as confidence rises is such a valley: flat, and not robust.",
        views(view("", [ratio, confidence])),
        note="Medians over the images that the attack breaks at that radius; relative sharpness "
        "of the last layer.",
        missing="It takes the measure `sharpness`, and a radius that breaks images.",
    )


def _sharpness_ratio(network: Network, radius: str) -> Interval | None:
    there, clean = (network.number("sharpness", radius, key) for key in ("sharpness", "clean_sharpness"))
    return Interval(there.value / clean.value) if there and clean and clean.value else None


def _over_radii(data: ReportData, quantity: Callable[[Network, str], Interval | None]) -> tuple[Series, ...]:
    """A line for each network over the radii at which it has the number."""
    lines = []
    for network in data.networks:
        known = [(radius, value) for radius in _radii(network) if (value := quantity(network, radius))]
        if known:
            x = floats([float(radius) for radius, _ in known])
            lines.append(interval_series(network.label, x, [value for _, value in known], "both"))
    return tuple(lines)


def _radii(network: Network) -> list[str]:
    """The radii of a network's measure as its value calls them, ascending."""
    radii = {float(radius) for array in network.arrays("sharpness", "radius") for radius in array}
    return [f"{radius:g}" for radius in sorted(radii) if radius > 0]
