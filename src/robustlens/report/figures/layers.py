"""Numbers of every layer: through the depth of the network, and against the strength of training."""

from operator import methodcaller

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Axis, Panel, View, view
from robustlens.report.figures.panels import against_strength, category_panel, interval_series, views

SPREADS = (("std", "std"), ("std / mean", "std_over_mean"))


def depth(data: ReportData, measure: str, layers: list[str], title: str, unit: str, key: str) -> Panel:
    """A number of every layer, through the network."""
    series = []
    for network in data.networks:
        values = ((layer, network.number(measure, "layers", layer, key)) for layer in layers)
        points = [(layer, value) for layer, value in values if value]
        if points:
            names, intervals = zip(*points, strict=True)
            series.append(interval_series(network.label, names, intervals, "points"))
    return category_panel(title, "layer", layers, Axis(unit), series)


def uncovered(data: ReportData, measure: str) -> str:
    """A sentence on the parts with weights that a measure of layers leaves out, if there are any."""
    parts: dict[str, None] = {}
    for network in data.networks:
        for name in {name: None for names in network.measured(measure, "uncovered") for name in names}:
            kinds = network.measured(measure, "uncovered", name, "kind")
            parts |= dict.fromkeys(f"{name} ({kind})" for kind in kinds)
    return f" It leaves out, where they are: {', '.join(parts)}." if parts else ""


def spread_views(data: ReportData, measure: str, of: str) -> tuple[View, ...]:
    """Spread of what is measured of the layers: of all at once, then of each against strength."""
    layers = data.layers(measure)
    titles = [(f"{title} of the {of}", title, key) for title, key in SPREADS]
    through = [depth(data, measure, layers, heading, title, key) for heading, title, key in titles]
    each = [
        view(
            layer,
            [
                against_strength(
                    data, heading, title, False, methodcaller("number", measure, "layers", layer, key)
                )
                for heading, title, key in titles
            ],
        )
        for layer in layers
    ]
    return views(view("Every layer", through), *each)
