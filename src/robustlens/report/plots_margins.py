"""Figures of the decisions: margins, confidence, indecisive errors, change under attack."""

import numpy as np

from robustlens.intervals import Interval, mean_of, wilson
from robustlens.report.collect import Collected, Group, combined
from robustlens.report.plots_accuracy import against_strength, interval_series, views
from robustlens.report.spec import Axis, Figure, Panel, Series, aligned, ecdf, floats, histogram, view

SPLITS = (("Test images", "test"), ("Training images", "train"))
BELOW = Axis("share of images below", percent=True)
SHARE = Axis("share of images", percent=True)
BOUNDARY = ((0.0, "decision boundary"),)


def margins(study: Collected) -> Figure:
    """Distribution of the margins on test and training images, and how far the two lie apart."""
    every = []
    for kind, unit in (("logit", "logits"), ("probability", "probability")):
        axis = Axis(f"margin ({unit})")
        cumulative = [
            Panel(
                title,
                axis,
                BELOW,
                tuple(
                    Series(group.label, *ecdf(np.concatenate(arrays)))
                    for group in study.groups
                    if (arrays := group.arrays(f"margins/{split}_{kind}"))
                ),
                BOUNDARY,
            )
            for title, split in SPLITS
        ]
        every.append(
            view(f"{kind.capitalize()} margin, cumulative", [*aligned(cumulative), _apart(study, kind, unit)])
        )
        every.append(
            view(f"{kind.capitalize()} margin, histogram", aligned(_margin_histograms(study, kind, axis)))
        )
    return Figure(
        "margins",
        "Margins",
        "Margins: distance to the decision boundary, in the network's output",
        "Left of 0 are the errors; stronger training should draw the images closer to 0 and the curves of"
        " test and training images closer together.",
        views(*every),
        note="The margin is f_y - max f_i over the other classes. In the third plot the area between a line "
        "and 0 is, up to the outermost images, the Wasserstein distance between training and test margins.",
        selector="Margin",
        paper=3,
    )


def confidence(study: Collected) -> Figure:
    """Histogram of the largest probability, for all, wrong and right images."""

    def kept(group: Group, split: str, which: bool | None) -> list[np.ndarray]:
        every = group.arrays(f"margins/{split}_confidence")
        if which is None:
            return every
        masks = group.arrays(f"margins/{split}_correct")
        pairs = ((c, m) for c, m in zip(every, masks, strict=False) if c.shape == m.shape)
        return [found for c, m in pairs if (found := c[m.astype(bool) == which]).size]

    edges = np.linspace(0, 1, 21)

    def panels(which: bool | None) -> list[Panel]:
        return [
            Panel(
                title,
                Axis("confidence, the largest probability", range=(0.0, 1.0)),
                SHARE,
                tuple(
                    Series(group.label, *histogram(np.concatenate(arrays), edges), mark="steps")
                    for group in study.groups
                    if (arrays := kept(group, split, which))
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
            view("All images", aligned(panels(None))),
            view("Wrong images", aligned(panels(False))),
            view("Right images", aligned(panels(True))),
        ),
        selector="Images",
        paper=2,
    )


def indecisive(study: Collected) -> Figure:
    """Errors by how close they were: wrong with p_max - p_y below tau."""
    taus = np.linspace(0, 1, 41)

    def line(group: Group, split: str, of_errors: bool) -> Series | None:
        seeds = []
        for margin in group.arrays(f"margins/{split}_probability"):
            missed = -margin[margin < 0]
            n = len(missed) if of_errors else len(margin)
            if n:
                seeds.append([wilson(int((missed < tau).sum()), n) for tau in taus])
        points = [combined(seed[place] for seed in seeds) for place in range(len(taus))]
        found = [point for point in points if point is not None]
        return interval_series(group.label, floats(taus), found, "line") if found else None

    every = [
        view(
            title,
            [
                Panel(
                    heading,
                    Axis("tau (p_max - p_y < tau)"),
                    Axis(unit, percent=True),
                    tuple(found for group in study.groups if (found := line(group, split, of_errors))),
                )
                for heading, unit, of_errors in (
                    ("Among all images", "share of all images", False),
                    ("Among the errors", "share of the errors", True),
                )
            ],
        )
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


def smoothness(study: Collected) -> Figure:
    """How much a fixed PGD changes the output of each network."""

    def panels(key: str, unit: str) -> list[Panel]:
        found = [(group, group.arrays(f"smoothness/{key}_change")) for group in study.groups]
        axis = Axis(f"clean minus attacked ({unit})")
        series = [Series(group.label, *ecdf(np.concatenate(arrays))) for group, arrays in found if arrays]
        means = {group.label: combined(map(_finite_mean, arrays)) for group, arrays in found}
        return [
            Panel("Distribution over test images", axis, BELOW, tuple(series), ((0.0, "no change"),)),
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
        ),
        selector="Change of",
        paper=2,
    )


# -- pieces --------------------------------------------------------------------------------------------


def _apart(study: Collected, kind: str, unit: str) -> Panel:
    """Training minus test margin, quantile by quantile."""
    levels = np.linspace(0.01, 0.99, 99)
    series = []
    for group in study.groups:
        train, test = (group.arrays(f"margins/{split}_{kind}") for split in ("train", "test"))
        if train and test:
            ahead = np.quantile(np.concatenate(train), levels) - np.quantile(np.concatenate(test), levels)
            series.append(Series(group.label, floats(levels), floats(ahead)))
    return Panel(
        "Training minus test",
        Axis("quantile of the images", percent=True),
        Axis(f"difference of margins ({unit})"),
        tuple(series),
    )


def _margin_histograms(study: Collected, kind: str, axis: Axis) -> list[Panel]:
    arrays = {
        split: [group.arrays(f"margins/{split}_{kind}") for group in study.groups] for _, split in SPLITS
    }
    every = [array for groups in arrays.values() for found in groups for array in found]
    if not every:
        return []
    low, high = np.quantile(np.concatenate(every), [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 49)
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
