"""Figures of the network itself: spectra, activations and the weight-loss landscape."""

from functools import partial

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import (
    POINTS,
    Axis,
    Figure,
    Panel,
    Series,
    View,
    ecdf,
    fitted,
    floats,
    histogram,
    points_for,
    thinned,
    view,
)
from robustlens.report.figures.accuracy import against_strength, interval_series, views
from robustlens.stats.intervals import Interval

SPREADS = (("std / mean", "std_over_mean"), ("std", "std"))
Arrays = list[tuple[str, list[np.ndarray]]]
"""For each network its label and an array of every seed."""


def spectrum(study: ReportData) -> Figure:
    """Singular values of one layer at a time, sorted."""
    layers = study.layers("spectrum")
    points = points_for(2 * len(layers) * len(study.groups))

    def panel(layer: str, title: str, unit: str, scaled: bool) -> Panel:
        curves = []
        for group in study.groups:
            if found := _sorted(group, f"spectrum/{layer}", points):
                ranks, values, mean = found
                curves.append((group.label, ranks, values / mean if scaled else values))
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
        note="The axis leaves out the very smallest values; a double click on a plot shows them.",
        selector="Layer",
    )


def spectrum_spread(study: ReportData) -> Figure:
    """Spread of the singular values per layer and against strength."""
    return Figure(
        "spectrum-spread",
        "Singular values",
        "Spread of the singular values",
        "Look for lines that lie lower the stronger the training (Wen et al.: low variance); where std "
        "and std / mean disagree, only the scale of the weights moved.",
        _spread_views(study, "spectrum", "singular values"),
        selector="Layer",
    )


def activations(study: ReportData) -> Figure:
    """Distribution of the norms of what one layer reads, a layer at a time."""
    layers = study.layers("activations")
    points = points_for(2 * len(layers) * len(study.groups))

    def panels(layer: str) -> list[Panel]:
        found = [(group, group.arrays(f"activations/{layer}")) for group in study.groups]
        return [
            Panel(
                title,
                Axis(unit),
                Axis("share of images below", percent=True),
                tuple(
                    Series(
                        group.label,
                        *ecdf(np.concatenate([a / (a.mean() or 1) if scaled else a for a in arrays]), points),
                    )
                    for group, arrays in found
                    if arrays
                ),
            )
            for title, unit, scaled in (
                ("Norm of what the layer reads", "L2 norm", False),
                ("Divided by its mean", "L2 norm / mean", True),
            )
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


def activation_spread(study: ReportData) -> Figure:
    """Spread of the activation norms per layer and against strength."""
    return Figure(
        "activation-spread",
        "Activations",
        "Spread of the activation norms",
        "Look for std / mean (the coefficient of variation) that falls with strength, most of all in the "
        "layers where the singular values lost their spread.",
        _spread_views(study, "activations", "activation norms"),
        selector="Layer",
    )


def feature_change(study: ReportData) -> Figure:
    """How far one fixed perturbation of the image moves what each layer reads."""
    layers = study.layers("smoothness")
    points = points_for(2 * len(layers) * len(study.groups))
    axis = Axis("relative change of the feature")

    def each(layer: str) -> list[Panel]:
        attacked, noisy = (
            [(group.label, group.arrays(f"smoothness/{kind}/{layer}")) for group in study.groups]
            for kind in ("attack", "noise")
        )
        below, share = (Axis(title, percent=True) for title in ("share of images below", "share of images"))
        return [
            Panel("Under the attack", axis, below, _ecdfs(attacked, points)),
            Panel("Under random noise", axis, below, _ecdfs(noisy, points)),
            Panel("Under the attack, histogram", axis, share, _histograms(attacked)),
        ]

    def depth(unit: str, ending: str) -> list[Panel]:
        return [
            _depth(study, "smoothness", layers, f"Under {moved}", unit, key + ending)
            for moved, key in (("the attack", "attack"), ("random noise", "noise"))
        ]

    return Figure(
        "feature-change",
        "Smoothness",
        "Change of the features under a fixed perturbation",
        "Wen et al. expect lines that lie lower the stronger the training, in most layers and in all "
        "directions: under the attack, which each network chose against itself, and under random noise, the "
        "same for all.",
        views(
            view("Every layer", depth("mean relative change", "")),
            view("Every layer, amplification", depth("mean amplification", "_amplification")),
            *(view(layer, each(layer)) for layer in layers),
        ),
        note="The relative change is ||phi(x + delta) - phi(x)|| / ||phi(x)||, phi what the layer reads and "
        "delta one fixed perturbation of the image; the amplification is that over ||delta|| / ||x||.",
        selector="Layer",
    )


def landscape(study: ReportData) -> Figure:
    """Adversarial loss along random directions in weight space, attacked anew at every point."""
    every = [_landscape_view(study, split, rise) for split in ("test", "train") for rise in (False, True)]
    return Figure(
        "landscape",
        "Landscape",
        "Adversarial weight-loss landscape",
        "A flat valley is a curve that rises slowly on both sides of 0: AWP's should be the flattest "
        "among the adversarially trained, and should stay so at matched temperature and in the error "
        "rate.",
        views(*every),
        note="Adversarial examples are crafted anew at every w + alpha d, d filter-normalised; lines are "
        "means over images and directions, bands span the directions (and seeds). The loss axes fit the "
        "adversarially trained networks; a double click on a plot shows all.",
        selector="Images",
        paper=2,
    )


# -- pieces --------------------------------------------------------------------------------------------


def _sorted(group: Network, key: str, points: int) -> tuple[tuple[float, ...], np.ndarray, float] | None:
    """Rank shares, singular values (mean over seeds) and their mean; thinned, closest at both ends."""
    arrays = group.arrays(key)
    if not arrays:
        return None
    same = [np.sort(array)[::-1] for array in arrays if array.size == arrays[0].size]
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


def _ecdfs(found: Arrays, points: int) -> tuple[Series, ...]:
    return tuple(Series(label, *ecdf(np.concatenate(arrays), points)) for label, arrays in found if arrays)


def _histograms(found: Arrays) -> tuple[Series, ...]:
    """Outlines of histograms over common bins, which leave out the outermost images."""
    every = [array[np.isfinite(array)] for _, arrays in found for array in arrays]
    if not any(array.size for array in every):
        return ()
    highest = float(np.quantile(np.concatenate(every), 0.999)) or 1.0
    edges = np.linspace(0, highest, 49)
    return tuple(
        Series(label, *histogram(np.concatenate(arrays), edges), mark="steps")
        for label, arrays in found
        if arrays
    )


def _of_layer(measure: str, layer: str, key: str, group: Network) -> Interval | None:
    """A number that a measure has of a layer, over seeds."""
    return group.number(measure, "layers", layer, key)


def _depth(study: ReportData, measure: str, layers: list[str], title: str, unit: str, key: str) -> Panel:
    """A number of every layer, through the network."""
    series = []
    for group in study.groups:
        points = [(layer, value) for layer in layers if (value := _of_layer(measure, layer, key, group))]
        if points:
            names, intervals = zip(*points, strict=True)
            series.append(interval_series(group.label, names, list(intervals), "both"))
    return Panel(title, Axis("layer", kind="category"), Axis(unit), tuple(series))


def _spread_views(study: ReportData, measure: str, of: str) -> tuple[View, ...]:
    layers = study.layers(measure)
    depth = [_depth(study, measure, layers, f"{title} of the {of}", title, key) for title, key in SPREADS]
    each = [
        view(
            layer,
            [
                against_strength(
                    study, f"{title} of the {of}", title, False, partial(_of_layer, measure, layer, key)
                )
                for title, key in SPREADS
            ],
        )
        for layer in layers
    ]
    return views(view("Every layer", depth), *each)


def _landscape_view(study: ReportData, split: str, rise: bool) -> View | None:
    panels = []
    for title, key, unit, percent in (
        ("Adversarial loss", "loss", "cross entropy (nats)", False),
        ("At matched temperature", "matched", "cross entropy (nats)", False),
        ("Adversarial error rate", "error", "error rate", True),
    ):
        series = [line for group in study.groups if (line := _along(group, f"landscape/{split}_{key}", rise))]
        axis = Axis(f"rise of the {unit}" if rise else unit, percent=percent)
        if not rise and not percent:
            # Under attack the loss of a standard network would dwarf all the others.
            hardened = {group.label for group in study.groups if group.eps > 0}
            axis = fitted(axis, [y for line in series if line.label in hardened for y in line.y])
        panels.append(Panel(title, Axis("alpha, distance along d"), axis, tuple(series)))
    return view(f"{split.capitalize()} images{', rise over alpha = 0' if rise else ''}", panels)


def _along(group: Network, key: str, rise: bool) -> Series | None:
    alphas = group.arrays("landscape/alpha")
    draws = [array for array in group.arrays(key) if array.ndim == 3]
    draws = [array for array in draws if alphas and len(array) == len(alphas[0])]
    if not draws:
        return None
    alpha = alphas[0]
    lines = np.concatenate([array.astype(np.float64).mean(2) for array in draws], axis=1)
    if rise:
        lines = lines - lines[np.abs(alpha).argmin()]
    kept = thinned(len(alpha), POINTS)
    lines = lines[kept]
    band = lines.shape[1] > 1
    return Series(
        group.label,
        floats(alpha[kept]),
        floats(lines.mean(1)),
        floats(lines.min(1)) if band else (),
        floats(lines.max(1)) if band else (),
    )
