"""Figures of singular values: of the weights, layer by layer, and of the Jacobian at test images."""

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, floats, points_for, thinned, view
from robustlens.report.figures.layers import spread_views, uncovered
from robustlens.report.figures.panels import BELOW, ecdf_series, views
from robustlens.results.explanation import LARGEST_ERROR, density_error


def spectrum(data: ReportData) -> Figure:
    """Singular values of one layer at a time, sorted."""
    layers = data.layers("spectrum")
    points = points_for(2 * len(layers) * len(data.networks))

    def panel(layer: str, title: str, unit: str, scaled: bool) -> Panel:
        curves = []
        for network in data.networks:
            if curve := _sorted(network, layer, points):
                ranks, values, mean = curve
                curves.append((network.label, ranks, values / mean if scaled else values))
        axis = _log_axis(unit, [(ranks, values) for _, ranks, values in curves])
        lines = tuple(Series(label, ranks, floats(values)) for label, ranks, values in curves)
        return Panel(title, Axis("rank, from largest to smallest", percent=True), axis, lines)

    def panels(layer: str) -> list[Panel]:
        return [
            panel(layer, "Singular values", "singular value", False),
            panel(layer, "Divided by their mean", "singular value / mean", True),
        ]

    return Figure(
        "spectrum",
        "Singular values",
        "Singular values of every layer",
        "Stronger training should give a flatter curve, with large and small values closer together; the "
        "right plot takes out the scale of the weights, which normalisation layers make arbitrary.",
        views(*(view(layer, panels(layer)) for layer in layers)),
        note="The axis leaves out the very smallest values; a double click on a plot shows them."
        + _estimated(data)
        + _all_zero(data)
        + uncovered(data, "spectrum"),
        selector="Layer",
    )


def spectrum_spread(data: ReportData) -> Figure:
    """Spread of the singular values per layer and against strength."""
    return Figure(
        "spectrum-spread",
        "Singular values",
        "Spread of the singular values",
        "Look for lines that lie lower the stronger the training (Wen et al.: low variance); where std "
        "and std / mean disagree, only the scale of the weights moved.",
        spread_views(data, "spectrum", "singular values"),
        note=_estimated(data).strip(),
        selector="Layer",
    )


def jacobian(data: ReportData) -> Figure:
    """Singular values of the logits' Jacobian at test images."""
    points = points_for(2 * len(data.networks))
    every = data.arrays("jacobian", "test_singular_values")

    def panel(title: str, place: int) -> Panel:
        values = [(label, [array[:, place] for array in seeds]) for label, seeds in every]
        return Panel(title, Axis("singular value", kind="log"), BELOW, ecdf_series(values, points))

    return Figure(
        "jacobian",
        "Singular values",
        "Singular values of the Jacobian at test images",
        "The whole network as a linear map near an image: the largest value is how fast the logits can "
        "change there. Robust training should move it to the left.",
        views(view("", [panel("Largest", 0), panel("Second largest", 1)])),
    )


def _all_zero(data: ReportData) -> str:
    """A sentence on the layers whose weights are all zero, as those of pruned networks may be, if any."""
    layers = [
        f"{layer} of {network.label}"
        for layer in data.layers("spectrum")
        for network in data.networks
        if (seeds := network.arrays("spectrum", layer)) and not any(array.any() for array in seeds)
    ]
    return f" All values are zero, and not drawn: {', '.join(layers)}." if layers else ""


def _estimated(data: ReportData) -> str:
    """A sentence on the layers whose singular values are known by their density, if there are any."""
    errors: dict[str, float] = {}
    for run in data.runs:
        for layer, numbers in (run.at("spectrum", "layers") or {}).items():
            if (error := density_error(numbers)) is not None:
                errors[layer] = max(error, errors.get(layer, 0.0))
    if not errors:
        return ""
    each = ", ".join(f"{layer} (std to {100 * error:.2g} %)" for layer, error in errors.items())
    return (
        f" Too large for all their values: {each}. Their curves are 1,000 quantiles of a stochastic density, "
        "which do not resolve the ends; their largest value is exact. Claims take their spreads where the "
        f"error is at most {100 * LARGEST_ERROR:g} %."
    )


def _sorted(network: Network, layer: str, points: int) -> tuple[tuple[float, ...], np.ndarray, float] | None:
    """Rank shares, singular values (mean over seeds) and their mean; thinned, closest at both ends."""
    seeds = network.arrays("spectrum", layer)
    if not seeds or not any(array.any() for array in seeds):  # a log axis has no place for zeros alone
        return None
    same = [np.sort(array)[::-1] for array in seeds if array.size == seeds[0].size]
    values = np.mean(same, axis=0)
    count = len(values)
    ends = np.unique(np.geomspace(1, count, points // 4).round().astype(int)) - 1
    kept = np.unique(np.concatenate([thinned(count, points // 2), ends, count - 1 - ends]))
    # A log axis has no zero: what lies a million times below the largest value is drawn there.
    shown = np.maximum(values[kept], values[0] * 1e-6)
    return floats(kept / max(count - 1, 1)), shown, float(values.mean()) or 1.0


def _log_axis(title: str, curves: list[tuple[tuple[float, ...], np.ndarray]]) -> Axis:
    """A log axis that leaves out the last few ranks, whose fall towards zero would flatten all the rest."""
    if not curves:
        return Axis(title, kind="log")
    low = min(float(np.interp(0.99, ranks, values)) for ranks, values in curves) / 1.3
    high = max(float(values.max()) for _, values in curves) * 1.15
    steps = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    decades = range(-12, 13)
    ticks = [
        step * 10.0**decade for decade in decades for step in (steps if 10.0**decade > low / 10 else (1,))
    ]
    return Axis(title, kind="log", range=(low, high), ticks=tuple((tick, f"{tick:g}") for tick in ticks))
