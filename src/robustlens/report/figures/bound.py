"""Figures of the theory: the generalization bound and its terms, instance margins, the Jacobian."""

from functools import partial
from typing import Any

import numpy as np

from robustlens.report.data import Network, ReportData, combined
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Table, ecdf, points_for, view
from robustlens.report.figures.accuracy import against_strength, views
from robustlens.stats.intervals import Interval

TERMS = (
    ("Product of the smallest singular values", "singular values", "sigma_product"),
    ("Smallest distance of two rows of the last layer", "rows", "distance"),
    ("Smallest instance margin", "v_min", "v_min"),
    ("u_min, their product", "u_min", "u_min"),
    ("Complexity term of the bound", "complexity", "complexity_term"),
)
"""What the bound is made of: in full, in a table, and by its name under `log10` in the explanation."""
SPLITS = (("Test images", "test"), ("Training images", "train"))


def bound(study: ReportData) -> Figure:
    """The terms of the generalization bound against strength, and where it says something."""
    terms = [against_strength(study, title, "log10", False, partial(_log10, key)) for title, _, key in TERMS]
    gaps = [
        against_strength(
            study, f"gamma {gamma:g}", "test - train ramp risk", False, partial(_ramp_gap, gamma)
        )
        for gamma in _gammas(study)
    ]
    return Figure(
        "bound",
        "The bound",
        "The generalization bound, term by term",
        "Wen et al.'s theorem 3.1 bounds the ramp-risk gap by what the margins leave (u_min against gamma) "
        "and by the size of the space (the complexity term). The ramp loss is at most 1, so a bound above 1 "
        "says nothing of the gap; the terms still tell what robustness moved.",
        views(view("Terms", terms), view("Measured ramp-risk gap", gaps)),
        note="u_min multiplies the smallest singular value of every layer, and so shrinks with depth; the "
        "instance margins in it are those that an attack found, which can only be too large.",
        tables=_bound_tables(study),
    )


def instance_margins(study: ReportData) -> Figure:
    """Distance of the images to the decision boundary, as an attack found it."""
    points = points_for(2 * len(study.groups))
    below = Axis("share of images below", percent=True)
    panels = [
        Panel(title, Axis("L2 distance"), below, _distances(study, split, points)) for title, split in SPLITS
    ]
    rates = [
        against_strength(study, title, unit, True, partial(_share, path))
        for title, unit, path in (
            ("Paths on which the margin rises again", "share of paths", ("assumption_3_1_fails", "paths")),
            ("Steps shorter than the product allows, at x", "share of steps", ("stretch", "at_x", "fails")),
            ("The same on the way", "share of steps", ("stretch", "on_the_way", "fails")),
        )
    ]
    return Figure(
        "instance-margins",
        "The bound",
        "Instance margins, and what the proof assumes",
        "Robust training should push the curves to the right: the images lie further from the boundary. The "
        "second view shows how often assumption 3.1 (the margin falls all the way to the boundary) and the "
        "step from feature to instance margins fail on real images.",
        views(view("Distance to the boundary", panels), view("Assumptions", rates)),
        note="Distances to the nearest misclassified point that a minimum-norm search found: upper bounds. A "
        "misclassified image has 0.",
    )


def jacobian(study: ReportData) -> Figure:
    """Singular values of the logits' Jacobian at test images."""
    points = points_for(2 * len(study.groups))
    below = Axis("share of images below", percent=True)

    def panel(title: str, place: int) -> Panel:
        found = [(group, group.arrays("jacobian/test_singular_values")) for group in study.groups]
        lines = tuple(
            Series(group.label, *ecdf(np.concatenate([array[:, place] for array in arrays]), points))
            for group, arrays in found
            if arrays
        )
        return Panel(title, Axis("singular value", kind="log"), below, lines)

    return Figure(
        "jacobian",
        "Singular values",
        "Singular values of the Jacobian at test images",
        "The whole network as a linear map near an image: the largest value is how fast the logits can "
        "change there. Robust training should move it to the left.",
        views(view("", [panel("Largest", 0), panel("Second largest", 1)])),
    )


# -- pieces --------------------------------------------------------------------------------------------


def _log10(key: str, group: Network) -> Interval | None:
    return group.number("bound", "log10", key)


def _share(path: tuple[str, ...], group: Network) -> Interval | None:
    return group.number("bound", "test", *path)


def _rows(group: Network) -> list[dict[str, Any]]:
    """The bound at every gamma, of every seed."""
    return [row for rows in group.measured("bound", "gammas") for row in rows]


def _gammas(study: ReportData) -> list[float]:
    return sorted({float(row["gamma"]) for group in study.groups for row in _rows(group)})


def _ramp_gap(gamma: float, group: Network) -> Interval | None:
    same = [row["ramp_gap"] for row in _rows(group) if row["gamma"] == gamma and row["ramp_gap"] is not None]
    return combined(Interval(float(gap)) for gap in same)


def _distances(study: ReportData, split: str, points: int) -> tuple[Series, ...]:
    found = [(group, group.arrays(f"bound/{split}_upper")) for group in study.groups]
    return tuple(
        Series(group.label, *ecdf(np.concatenate(arrays), points)) for group, arrays in found if arrays
    )


def _bound_tables(study: ReportData) -> tuple[Table, ...]:
    """For every network the terms, and what makes the bound vacuous; means over seeds."""
    rows = tuple((group.label, _cells(group)) for group in study.groups if group.measured("bound", "log10"))
    columns = (*(short for _, short, _ in TERMS), "k (nets, TwoNN)", "vacuous for", "because of")
    return (Table("The terms as powers of ten, means over seeds", columns, rows),) if rows else ()


def _cells(group: Network) -> tuple[str, ...]:
    terms = [_power(_log10(key, group)) for _, _, key in TERMS]
    nets, two_nn = (_mean(group.measured("bound", "covering", key)) for key in ("dimension", "two_nn"))
    found = _rows(group)
    vacuous = sum(bool(row["vacuous"]) for row in found)
    because = dict.fromkeys(reason for row in found for reason in row["because"])
    return (
        *terms,
        f"{nets}, {two_nn}",
        f"{vacuous} of {len(found)} gammas" if found else "-",
        ", ".join(because) or "-",
    )


def _power(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.1f}"


def _mean(values: list[Any]) -> str:
    return f"{np.mean(values):.1f}" if values else "-"
