"""Figure of how closely the margins lie together, and how far from those of the standard network."""

from collections.abc import Callable
from functools import partial

import numpy as np

from robustlens.report.data import CheckpointReport, Combine, Network, ReportData
from robustlens.report.drawing.spec import Figure, Panel, Table, view
from robustlens.report.figures.comparison import distance
from robustlens.report.figures.margins import LOGIT, MATCHED, PROBABILITY, MarginKind
from robustlens.report.figures.panels import SHARE, SPLITS, against_strength, views
from robustlens.report.text.wording import number
from robustlens.stats.intervals import Interval, interquartile_range, over_seeds, share_over_seeds
from robustlens.stats.misclassification import TAU
from robustlens.stats.samples import wasserstein_distance


def concentration(data: ReportData) -> Figure:
    """Closeness of the margins to one another and to the boundary, and distance to the standard network's."""
    kinds = (PROBABILITY, MATCHED, LOGIT)
    distances = [
        against_strength(
            data, kind.title, f"Wasserstein-1 ({kind.unit})", False, partial(_moved, data, kind, "test")
        )
        for kind in kinds
    ]
    return Figure(
        "concentration",
        "Margins",
        "Concentration of the margins",
        "Wen et al. expect more images near the boundary and a smaller spread the stronger the training, and "
        "training and test margins that lie closer together; what only low confidence did is gone at matched "
        "temperature.",
        views(
            *(view(kind.title, _concentrations(data, kind)) for kind in kinds),
            view("Distance to the standard network", distances),
        ),
        note="On test images; the distance to the standard network is that of the same seed and setting.",
        selector="Margin",
        tables=_distances(data, kinds),
    )


def _concentrations(data: ReportData, kind: MarginKind) -> list[Panel]:
    """Share near the boundary, spread, and distance between training and test margins, against strength."""
    key = f"test_{kind.key}"
    spread = partial(_statistic, key, interquartile_range)
    quantities: list[tuple[str, str, Callable[[Network], Interval | None]]] = [
        ("Standard deviation", f"std of the margin ({kind.unit})", partial(_statistic, key, np.std)),
        ("Interquartile range", f"interquartile range ({kind.unit})", spread),
        ("Training to test", f"Wasserstein-1 ({kind.unit})", partial(_train_to_test, kind)),
    ]
    near = partial(_statistic, key, lambda margin: np.mean(np.abs(margin) < TAU), combine=share_over_seeds)
    title = f"Within {TAU:g} of the boundary"
    shares = [against_strength(data, title, SHARE.title, True, near)] if kind.is_probability else []
    return shares + [against_strength(data, title, unit, False, read) for title, unit, read in quantities]


def _statistic(
    key: str, statistic: Callable[[np.ndarray], float], network: Network, combine: Combine = over_seeds
) -> Interval | None:
    """A statistic of the finite margins, over seeds."""

    def of_run(run: CheckpointReport) -> Interval | None:
        array = run.array("margins", key)
        finite = np.empty(0) if array is None else array[np.isfinite(array)]
        return Interval(float(statistic(finite.astype(np.float64)))) if finite.size else None

    return network.combined(combine, of_run)


def _train_to_test(kind: MarginKind, network: Network) -> Interval | None:
    """Wasserstein-1 distance between training and test margins, over seeds."""

    def of_run(run: CheckpointReport) -> Interval | None:
        train, test = (run.array("margins", f"{split}_{kind.key}") for split in ("train", "test"))
        if train is None or test is None or not (np.isfinite(train).all() and np.isfinite(test).all()):
            return None
        return Interval(wasserstein_distance(train, test))

    return network.over_seeds(of_run)


def _moved(data: ReportData, kind: MarginKind, split: str, network: Network) -> Interval | None:
    """Distance of the margins to those of the standard network."""
    return distance(data, network, "margins", f"{split}_{kind.key}")


def _distances(data: ReportData, kinds: tuple[MarginKind, ...]) -> tuple[Table, ...]:
    """The distances to the standard network, on test and on training images."""
    rows = []
    for network in data.networks:
        moved = [_moved(data, kind, split, network) for _, split in SPLITS for kind in kinds]
        if any(moved):
            rows.append((network.label, tuple(number(each.value) if each else "" for each in moved)))
    columns = tuple(f"{split}: {kind.unit}" for _, split in SPLITS for kind in kinds)
    title = "Wasserstein-1 distance of the margins to those of the standard network, means over seeds"
    return (Table(title, columns, tuple(rows)),) if len(rows) > 1 else ()
