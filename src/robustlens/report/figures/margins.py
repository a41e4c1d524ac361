"""Figures of the decisions: margins, confidence, indecisive errors, change under attack.

What depends on confidence is drawn twice: as it is, and of logits divided by each network's own temperature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import wasserstein_distance

from robustlens.report.data import Network, ReportData, combined, dig
from robustlens.report.drawing.spec import (
    Axis,
    Figure,
    Panel,
    Series,
    Table,
    View,
    aligned,
    ecdf,
    floats,
    histogram,
    view,
)
from robustlens.report.figures.accuracy import against_strength, interval_series, views
from robustlens.report.figures.comparison import distance
from robustlens.report.text.wording import number
from robustlens.stats.intervals import Interval, mean_of, wilson

SPLITS = (("Test images", "test"), ("Training images", "train"))
BELOW = Axis("share of images below", percent=True)
SHARE = Axis("share of images", percent=True)
BOUNDARY = ((0.0, "decision boundary"),)
NEAR = 0.2
"""A probability margin below this is near the boundary."""


@dataclass(frozen=True)
class Kind:
    """A margin: its name, that of its arrays behind "margins/<split>_", its unit."""

    title: str
    key: str
    unit: str

    @property
    def is_probability(self) -> bool:
        """Whether it lies in [-1, 1]."""
        return self.key.endswith("probability")


LOGIT = Kind("Logit margin", "logit", "logits")
PROBABILITY = Kind("Probability margin", "probability", "probability")
MATCHED = Kind("Probability margin at matched temperature", "matched_probability", "matched probability")
TEMPERATURES = (("", ""), (", at matched temperature", "matched_"))
"""Ends of titles, and beginnings of the names of arrays."""


def margins(study: ReportData) -> Figure:
    """Distribution of the margins on test and training images, and how far the two lie apart."""
    every: list[View | None] = []
    for kind in (LOGIT, PROBABILITY, MATCHED):
        axis = Axis(f"margin ({kind.unit})")
        cumulative = [
            Panel(
                title,
                axis,
                BELOW,
                tuple(
                    Series(group.label, *ecdf(np.concatenate(arrays)))
                    for group in study.groups
                    if (arrays := group.arrays(f"margins/{split}_{kind.key}"))
                ),
                BOUNDARY,
            )
            for title, split in SPLITS
        ]
        every.append(view(f"{kind.title}, cumulative", [*aligned(cumulative), _apart(study, kind)]))
        every.append(view(f"{kind.title}, histogram", aligned(_margin_histograms(study, kind, axis))))
    every += [
        view(f"Normalised margin, {name}", aligned(_normalised(study, draw)))
        for name, draw in (("cumulative", _positive_ecdf), ("histogram", _positive_histogram))
    ]
    return Figure(
        "margins",
        "Margins",
        "Margins: distance to the decision boundary, in the network's output",
        "Left of 0 are the errors; stronger training should draw the images closer to 0 and the curves of"
        " test and training images closer together.",
        views(*every),
        note="The margin is f_y - max f_i over the other classes. In the third plot the area between a line "
        "and 0 is, up to the outermost images, the Wasserstein distance between training and test margins. "
        "The normalised margin is the logit margin of the images that are right over the product of all "
        "layers' largest singular values, a scale of its own for each network; in residual networks, whose "
        "shortcuts add to that product, it is no certificate.",
        selector="Margin",
        paper=3,
    )


def concentration(study: ReportData) -> Figure:
    """How closely the margins lie together, at the boundary and as a whole, and how far they went."""
    kinds = (PROBABILITY, MATCHED, LOGIT)
    return Figure(
        "concentration",
        "Margins",
        "Concentration of the margins",
        "Wen et al. expect more images near the boundary and a smaller spread the stronger the training, and "
        "training and test margins that lie closer together; what only low confidence did is gone at matched "
        "temperature.",
        views(
            *(view(kind.title, _concentrations(study, kind)) for kind in kinds),
            view(
                "Distance to the standard network",
                [
                    against_strength(
                        study, kind.title, f"Wasserstein-1 ({kind.unit})", False, partial(_went, study, kind)
                    )
                    for kind in kinds
                ],
            ),
        ),
        note="On test images; the distance to the standard network is that of the same seed and setting.",
        selector="Margin",
        tables=_distances(study, kinds),
    )


def confidence(study: ReportData) -> Figure:
    """Histogram of the largest probability, for all, wrong and right images."""

    def kept(group: Network, split: str, which: bool | None, prefix: str) -> list[np.ndarray]:
        every = group.arrays(f"margins/{split}_{prefix}confidence")
        if which is None:
            return every
        masks = group.arrays(f"margins/{split}_correct")
        pairs = ((c, m) for c, m in zip(every, masks, strict=False) if c.shape == m.shape)
        return [found for c, m in pairs if (found := c[m.astype(bool) == which]).size]

    edges = np.linspace(0, 1, 21)

    def panels(which: bool | None, prefix: str) -> list[Panel]:
        return [
            Panel(
                title,
                Axis("confidence, the largest probability", range=(0.0, 1.0)),
                SHARE,
                tuple(
                    Series(group.label, *histogram(np.concatenate(arrays), edges), mark="steps")
                    for group in study.groups
                    if (arrays := kept(group, split, which, prefix))
                ),
            )
            for title, split in SPLITS
        ]

    return Figure(
        "confidence",
        "Margins",
        "Confidence",
        "Standard training piles its images up at 1, errors as well; a robust network is less sure of "
        "itself, above all where it is wrong.",
        views(
            *(
                view(f"{name}{ending}", aligned(panels(which, prefix)))
                for ending, prefix in TEMPERATURES
                for name, which in (("All images", None), ("Wrong images", False), ("Right images", True))
            )
        ),
        selector="Images",
        paper=2,
    )


def indecisive(study: ReportData) -> Figure:
    """Errors by how close they were: wrong with p_max - p_y below tau."""
    taus = np.linspace(0, 1, 41)

    def line(group: Network, array: str, of_errors: bool) -> Series | None:
        seeds = []
        for margin in group.arrays(array):
            missed = -margin[margin < 0]
            n = len(missed) if of_errors else len(margin)
            if n:
                seeds.append([wilson(int((missed < tau).sum()), n) for tau in taus])
        points = [combined(seed[place] for seed in seeds) for place in range(len(taus))]
        found = [point for point in points if point is not None]
        return interval_series(group.label, floats(taus), found, "line") if found else None

    every = [
        view(
            f"{title}{ending}",
            [
                Panel(
                    heading,
                    Axis("tau (p_max - p_y < tau)"),
                    Axis(unit, percent=True),
                    tuple(
                        found
                        for group in study.groups
                        if (found := line(group, f"margins/{split}_{prefix}probability", of_errors))
                    ),
                )
                for heading, unit, of_errors in (
                    ("Among all images", "share of all images", False),
                    ("Among the errors", "share of the errors", True),
                )
            ],
        )
        for ending, prefix in TEMPERATURES
        for title, split in SPLITS
    ]
    return Figure(
        "indecisive",
        "Margins",
        "Indecisive errors",
        "Wen et al. expect robust networks to add errors that were close calls: their curves rise early, "
        "far to the left of tau = 1.",
        views(*every),
        note="Bands are 95 % Wilson intervals.",
        selector="Images",
    )


def smoothness(study: ReportData) -> Figure:
    """How much a fixed PGD changes the output of each network."""

    def panels(key: str, unit: str) -> list[Panel]:
        found = [(group, group.arrays(f"smoothness/{key}_change")) for group in study.groups]
        axis = Axis(f"clean minus attacked ({unit})")
        series = [Series(group.label, *ecdf(np.concatenate(arrays))) for group, arrays in found if arrays]
        means = {group.label: combined(map(_finite_mean, arrays)) for group, arrays in found}
        still = ((0.0, "no change"),)
        edges = _edges([array for _, arrays in found for array in arrays])
        bars = [
            Series(group.label, *histogram(np.concatenate(arrays), edges), mark="steps")
            for group, arrays in found
            if arrays
        ]
        return [
            Panel("Distribution over test images", axis, BELOW, tuple(series), still),
            Panel("Histogram", axis, SHARE, tuple(bars), still),
            against_strength(study, "Mean change", axis.title, False, lambda group: means[group.label]),
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
            view(MATCHED.title, panels("matched_probability", MATCHED.unit)),
            view("Confidence at matched temperature", panels("matched_confidence", MATCHED.unit)),
        ),
        selector="Change of",
        paper=2,
    )


# -- pieces --------------------------------------------------------------------------------------------


def _concentrations(study: ReportData, kind: Kind) -> list[Panel]:
    """Share near the boundary, spread, and distance between training and test margins, against strength."""
    key = f"margins/test_{kind.key}"
    quantities: list[tuple[str, str, Callable[[Network], Interval | None]]] = [
        ("Standard deviation", f"std of the margin ({kind.unit})", partial(_over_seeds, key, np.std)),
        ("Interquartile range", f"interquartile range ({kind.unit})", partial(_over_seeds, key, _iqr)),
        ("Training to test", f"Wasserstein-1 ({kind.unit})", partial(_train_test, kind)),
    ]
    near = partial(_over_seeds, key, lambda margin: np.mean(np.abs(margin) < NEAR))
    title = f"Within {NEAR:g} of the boundary"
    shares = [against_strength(study, title, SHARE.title, True, near)] if kind.is_probability else []
    return shares + [against_strength(study, title, unit, False, read) for title, unit, read in quantities]


def _over_seeds(key: str, of: Callable[[np.ndarray], float], group: Network) -> Interval | None:
    return combined(
        Interval(float(of(finite.astype(np.float64))))
        for array in group.arrays(key)
        if (finite := array[np.isfinite(array)]).size
    )


def _iqr(values: np.ndarray) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)


def _train_test(kind: Kind, group: Network) -> Interval | None:
    """Wasserstein-1 distance between training and test margins, over seeds."""
    sides = (
        [record.array(f"margins/{split}_{kind.key}") for split in ("train", "test")]
        for record in group.records
    )
    return combined(
        Interval(float(wasserstein_distance(train, test)))
        for train, test in sides
        if train is not None and test is not None and np.isfinite(train).all() and np.isfinite(test).all()
    )


def _went(study: ReportData, kind: Kind, group: Network) -> Interval | None:
    """How far the test margins are from those of the standard network."""
    return distance(study, group, f"margins/test_{kind.key}")


def _distances(study: ReportData, kinds: tuple[Kind, ...]) -> tuple[Table, ...]:
    """The distances to the standard network, on test and on training images."""
    rows = []
    for group in study.groups:
        found = [
            distance(study, group, f"margins/{split}_{kind.key}") for _, split in SPLITS for kind in kinds
        ]
        if any(found):
            rows.append((group.label, tuple(number(each.value) if each else "" for each in found)))
    columns = tuple(f"{split}: {kind.unit}" for _, split in SPLITS for kind in kinds)
    title = "Wasserstein-1 distance of the margins to those of the standard network, means over seeds"
    return (Table(title, columns, tuple(rows)),) if len(rows) > 1 else ()


def _normalised(
    study: ReportData, draw: Callable[[str, list[np.ndarray], np.ndarray], Series]
) -> list[Panel]:
    """Logit margins of the images that are right over the product of the layers' gains, on a log axis."""
    found = {
        split: [(group.label, arrays) for group in study.groups if (arrays := _over_gains(group, split))]
        for _, split in SPLITS
    }
    positive = [array[array > 0] for groups in found.values() for _, arrays in groups for array in arrays]
    if not any(array.size for array in positive):
        return []
    low, high = np.quantile(np.concatenate(positive), [0.005, 1.0])
    edges = np.geomspace(low, max(high, 1.01 * low), 49)
    axis = Axis(
        "margin / product of largest singular values", kind="log", range=(float(low), float(edges[-1]))
    )
    unit = BELOW if draw is _positive_ecdf else SHARE
    return [
        Panel(title, axis, unit, tuple(draw(label, arrays, edges) for label, arrays in found[split]))
        for title, split in SPLITS
    ]


def _over_gains(group: Network, split: str) -> list[np.ndarray]:
    """Logit margins over the product of the largest singular values, of each seed that has both."""
    every = []
    for record in group.records:
        layers = dig(record.explanation, "measures", "spectrum", "value", "layers") or {}
        gains = np.array([dig(layer, "max") or np.nan for layer in layers.values()], dtype=np.float64)
        margin = record.array(f"margins/{split}_logit")
        if margin is not None and gains.size and np.isfinite(gains).all():
            every.append(margin.astype(np.float64) * np.exp(-np.log(gains).sum()))
    return every


def _positive_ecdf(label: str, arrays: list[np.ndarray], edges: np.ndarray) -> Series:
    x, y = (np.array(values) for values in ecdf(np.concatenate(arrays)))
    return Series(label, floats(x[x > 0]), floats(y[x > 0]))


def _positive_histogram(label: str, arrays: list[np.ndarray], edges: np.ndarray) -> Series:
    return Series(label, *histogram(np.concatenate(arrays), edges), mark="steps")


def _apart(study: ReportData, kind: Kind) -> Panel:
    """Training minus test margin, quantile by quantile."""
    levels = np.linspace(0.01, 0.99, 99)
    series = []
    for group in study.groups:
        train, test = (group.arrays(f"margins/{split}_{kind.key}") for split in ("train", "test"))
        if train and test:
            ahead = np.quantile(np.concatenate(train), levels) - np.quantile(np.concatenate(test), levels)
            series.append(Series(group.label, floats(levels), floats(ahead)))
    return Panel(
        "Training minus test",
        Axis("quantile of the images", percent=True),
        Axis(f"difference of margins ({kind.unit})"),
        tuple(series),
    )


def _edges(arrays: list[np.ndarray]) -> np.ndarray:
    """Edges of the bins that all but the outermost values fall into."""
    every = np.concatenate(arrays) if arrays else np.zeros(1)
    finite = every[np.isfinite(every)]
    low, high = np.quantile(finite, [0.001, 0.999]) if finite.size else (0.0, 0.0)
    return np.linspace(low, high if high > low else low + 1, 49)


def _margin_histograms(study: ReportData, kind: Kind, axis: Axis) -> list[Panel]:
    arrays = {
        split: [group.arrays(f"margins/{split}_{kind.key}") for group in study.groups] for _, split in SPLITS
    }
    edges = _edges([array for groups in arrays.values() for found in groups for array in found])
    return [
        Panel(
            title,
            axis,
            SHARE,
            tuple(
                Series(group.label, *histogram(np.concatenate(found), edges), mark="steps")
                for group, found in zip(study.groups, arrays[split], strict=True)
                if found
            ),
            BOUNDARY,
        )
        for title, split in SPLITS
    ]


def _finite_mean(values: np.ndarray) -> Interval | None:
    """Mean of the finite values: a broken network does not empty the plot."""
    finite = values[np.isfinite(values)]
    return mean_of(finite) if finite.size else None
