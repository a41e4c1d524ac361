"""Figures of the margins: their distribution, as they are and over the product of the layers' gains."""

from dataclasses import dataclass

import numpy as np

from robustlens.report.data import LabelledArrays, Network, ReportData, RunReport
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, View, aligned, ecdf, floats, view
from robustlens.report.figures.panels import (
    BELOW,
    SHARE,
    SPLITS,
    ecdf_series,
    histogram_series,
    inner_edges,
    views,
)
from robustlens.results import Measurement
from robustlens.results.explanation import leaves_batch_norm_out, log_gain

BOUNDARY = ((0.0, "decision boundary"),)


@dataclass(frozen=True)
class MarginKind:
    """A margin: its name, that of its arrays behind "<split>_" in the measure "margins", its unit."""

    title: str
    key: str
    unit: str

    @property
    def is_probability(self) -> bool:
        """Whether it lies in [-1, 1]."""
        return self.key.endswith("probability")


LOGIT = MarginKind("Logit margin", "logit", "logits")
PROBABILITY = MarginKind("Probability margin", "probability", "probability")
MATCHED = MarginKind(
    "Probability margin at matched temperature", "matched_probability", "matched probability"
)
TEMPERATURES = (("", ""), (", at matched temperature", "matched_"))
"""Ends of titles, and beginnings of the names of arrays: logits as they are, and of matched temperature."""


def margins(data: ReportData) -> Figure:
    """Distribution of the margins on test and training images, and how far the two lie apart."""
    kinds = [drawn for kind in (LOGIT, PROBABILITY, MATCHED) for drawn in _kind_views(data, kind)]
    return Figure(
        "margins",
        "Margins",
        "Margins: distance to the decision boundary, in the network's output",
        "Left of 0 are the errors; stronger training should draw the images closer to 0 and the curves of"
        " test and training images closer together.",
        views(*kinds, *_normalised_views(data)),
        note="The margin is f_y - max f_i over the other classes. In the third plot the area between a line "
        "and 0 is, up to the outermost images, the Wasserstein distance between training and test margins. "
        "The normalised margin is the logit margin of the images that are right over the product of all "
        "layers' largest singular values, BatchNorm folded in, a scale of its own for each network; in "
        "residual networks, whose shortcuts add to that product, it is no certificate."
        + _without_gains(data),
        selector="Margin",
        paper=3,
    )


def _kind_views(data: ReportData, kind: MarginKind) -> tuple[View | None, View | None]:
    """One margin, cumulative and as a histogram."""
    axis = Axis(f"margin ({kind.unit})")
    by_split = {split: data.arrays("margins", f"{split}_{kind.key}") for _, split in SPLITS}
    edges = inner_edges(array for arrays in by_split.values() for _, seeds in arrays for array in seeds)
    cumulative = [
        Panel(title, axis, BELOW, ecdf_series(by_split[split]), BOUNDARY) for title, split in SPLITS
    ]
    histograms = [
        Panel(title, axis, SHARE, histogram_series(by_split[split], edges), BOUNDARY)
        for title, split in SPLITS
    ]
    return (
        view(f"{kind.title}, cumulative", [*aligned(cumulative), _difference(by_split, kind)]),
        view(f"{kind.title}, histogram", aligned(histograms)),
    )


def _difference(by_split: dict[str, LabelledArrays], kind: MarginKind) -> Panel:
    """Training minus test margin, quantile by quantile."""
    levels = np.linspace(0.01, 0.99, 99)
    train, test = (dict(by_split[split]) for split in ("train", "test"))
    series = []
    for label in (label for label in train if label in test):
        ahead, behind = (np.quantile(np.concatenate(seeds[label]), levels) for seeds in (train, test))
        series.append(Series(label, floats(levels), floats(ahead - behind)))
    return Panel(
        "Training minus test",
        Axis("quantile of the images", percent=True),
        Axis(f"difference of margins ({kind.unit})"),
        tuple(series),
    )


def _normalised_views(data: ReportData) -> list[View | None]:
    """Logit margins of the images that are right over the product of the layers' gains, on a log axis."""
    by_split = {split: _normalised(data, split) for _, split in SPLITS}
    positive = [array[array > 0] for arrays in by_split.values() for _, seeds in arrays for array in seeds]
    if not any(array.size for array in positive):
        return []
    low, high = np.quantile(np.concatenate(positive), [0.005, 1.0])
    edges = np.geomspace(low, max(high, 1.01 * low), 49)
    ends = float(low), float(edges[-1])
    axis = Axis("margin / product of largest singular values", kind="log", range=ends)
    cumulative = [Panel(title, axis, BELOW, _positive_ecdfs(by_split[split])) for title, split in SPLITS]
    histograms = [
        Panel(title, axis, SHARE, histogram_series(by_split[split], edges)) for title, split in SPLITS
    ]
    return [
        view("Normalised margin, cumulative", aligned(cumulative)),
        view("Normalised margin, histogram", aligned(histograms)),
    ]


def _normalised(data: ReportData, split: str) -> LabelledArrays:
    every = ((network.label, _over_gains(network, split)) for network in data.networks)
    return [(label, arrays) for label, arrays in every if arrays]


def _over_gains(network: Network, split: str) -> list[np.ndarray]:
    """Logit margins over the product of the largest singular values, of each seed that has both."""
    every = []
    for run in network.runs:
        spectrum, margin = _spectrum(run), run.array("margins", f"{split}_logit")
        gain = log_gain(spectrum) if spectrum else None
        if margin is not None and gain is not None:
            every.append(margin.astype(np.float64) * np.exp(-gain))
    return every


def _without_gains(data: ReportData) -> str:
    """A sentence on the networks whose gains are not known, since their BatchNorms were left out."""
    spectra = ((label, _spectrum(run)) for label, run in data.labelled_runs())
    left = [label for label, spectrum in spectra if spectrum and leaves_batch_norm_out(spectrum)]
    if not left:
        return ""
    return f" It takes `spectrum: {{batch_norm: fold}}`, which was not measured of {', '.join(left)}."


def _spectrum(run: RunReport) -> Measurement | None:
    return run.explanation.measures.get("spectrum") if run.explanation else None


def _positive_ecdfs(arrays: LabelledArrays) -> tuple[Series, ...]:
    """The empirical distributions, drawn where they are above 0."""
    series = []
    for label, seeds in arrays:
        x, y = (np.array(values) for values in ecdf(np.concatenate(seeds)))
        series.append(Series(label, floats(x[x > 0]), floats(y[x > 0])))
    return tuple(series)
