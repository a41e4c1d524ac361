"""Figures of change under one fixed perturbation: of the outputs, and of what every layer reads."""

from functools import partial

import numpy as np

from robustlens.report.data import CheckpointReport, LabelledArrays, Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, points_for, view
from robustlens.report.figures.layers import depth
from robustlens.report.figures.panels import (
    BELOW,
    SHARE,
    against_strength,
    ecdf_series,
    histogram_series,
    inner_edges,
    views,
)
from robustlens.stats.intervals import Interval, mean_of


def smoothness(data: ReportData) -> Figure:
    """Change of each network's output under a fixed PGD."""

    def panels(key: str, unit: str) -> list[Panel]:
        changes = data.arrays("smoothness", f"{key}_change")
        axis = Axis(f"clean minus attacked ({unit})")
        unchanged = ((0.0, "no change"),)
        edges = inner_edges(array for _, seeds in changes for array in seeds)
        return [
            Panel("Distribution over test images", axis, BELOW, ecdf_series(changes), unchanged),
            Panel("Histogram", axis, SHARE, histogram_series(changes, edges), unchanged),
            against_strength(data, "Mean change", axis.title, False, partial(_mean_change, f"{key}_change")),
        ]

    return Figure(
        "smoothness",
        "Smoothness",
        "Change of the margin under a fixed attack",
        "The same PGD against every network: a smooth one changes little, so its curve climbs steeply just "
        "right of 0.",
        views(
            view("Logit margin", panels("margin", "logits")),
            view("Probability margin", panels("probability", "probability")),
            view("Confidence", panels("confidence", "probability")),
            view(
                "Probability margin at matched temperature",
                panels("matched_probability", "matched probability"),
            ),
            view("Confidence at matched temperature", panels("matched_confidence", "matched probability")),
        ),
        selector="Change of",
        paper=2,
    )


def feature_change(data: ReportData) -> Figure:
    """Change of what each layer reads under one fixed perturbation of the image."""
    layers = data.layers("smoothness")
    points = points_for(2 * len(layers) * len(data.networks))
    axis = Axis("relative change of the feature")

    def each(layer: str) -> list[Panel]:
        attacked, noisy = (data.arrays("smoothness", f"{kind}/{layer}") for kind in ("attack", "noise"))
        return [
            Panel("Under the attack", axis, BELOW, ecdf_series(attacked, points)),
            Panel("Under random noise", axis, BELOW, ecdf_series(noisy, points)),
            Panel("Under the attack, histogram", axis, SHARE, _histograms(attacked)),
        ]

    def through(unit: str, ending: str) -> list[Panel]:
        return [
            depth(data, "smoothness", layers, f"Under {moved}", unit, key + ending)
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
            view("Every layer", through("mean relative change", "")),
            view("Every layer, amplification", through("mean amplification", "_amplification")),
            *(view(layer, each(layer)) for layer in layers),
        ),
        note="The relative change is ||phi(x + delta) - phi(x)|| / ||phi(x)||, phi what the layer reads and "
        "delta one fixed perturbation of the image; the amplification is that over ||delta|| / ||x||.",
        selector="Layer",
    )


def _mean_change(key: str, network: Network) -> Interval | None:
    """Mean of the finite values, over seeds: a broken network does not empty the plot."""

    def of_run(run: CheckpointReport) -> Interval | None:
        values = run.array("smoothness", key)
        finite = np.empty(0) if values is None else values[np.isfinite(values)]
        return mean_of(finite) if finite.size else None

    return network.over_seeds(of_run)


def _histograms(changes: LabelledArrays) -> tuple[Series, ...]:
    """Outlines of histograms over common bins from 0, which leave out the outermost images."""
    finite = [array[np.isfinite(array)] for _, seeds in changes for array in seeds]
    if not any(array.size for array in finite):
        return ()
    highest = float(np.quantile(np.concatenate(finite), 0.999)) or 1.0
    return histogram_series(changes, np.linspace(0, highest, 49))
