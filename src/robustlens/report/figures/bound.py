"""Figures of the theory: the generalization bound and its terms, and instance margins."""

from collections.abc import Mapping
from functools import partial
from operator import methodcaller
from typing import Any

from robustlens.report.data import CheckpointReport, Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Table, points_for, view
from robustlens.report.figures.layers import uncovered
from robustlens.report.figures.panels import BELOW, SPLITS, against_strength, ecdf_series, views
from robustlens.stats.intervals import Interval

TERMS = (
    ("Product of the smallest singular values", "singular values", "sigma_product"),
    ("Smallest distance of two rows of the last layer", "rows", "distance"),
    ("Smallest instance margin", "v_min", "v_min"),
    ("u_min, their product", "u_min", "u_min"),
    ("Complexity term of the bound", "complexity", "complexity_term"),
)
"""Terms of the bound: in full, in a table, and by their names under `log10` in the explanation."""


def bound(data: ReportData) -> Figure:
    """The terms of the generalization bound against strength, and where it says something."""
    terms = [
        against_strength(data, title, "log10", False, methodcaller("number", "bound", "log10", key))
        for title, _, key in TERMS
    ]
    gaps = [
        against_strength(data, f"gamma {gamma:g}", "test - train ramp risk", False, partial(_ramp_gap, gamma))
        for gamma in sorted({row["gamma"] for network in data.networks for row in _at_gammas(network)})
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
        "instance margins in it are those that an attack found, which can only be too large."
        + uncovered(data, "bound"),
        tables=_bound_tables(data),
    )


def instance_margins(data: ReportData) -> Figure:
    """Distance of the images to the decision boundary, as an attack found it."""
    points = points_for(2 * len(data.networks))
    panels = [
        Panel(title, Axis("L2 distance"), BELOW, ecdf_series(data.arrays("bound", f"{split}_upper"), points))
        for title, split in SPLITS
    ]
    rates = [
        against_strength(data, title, unit, True, methodcaller("number", "bound", "test", *path))
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
        "misclassified image has 0. Images of which the search found no such point count as further away: "
        "where there are some, a curve ends below 100 %.",
    )


def _at_gammas(network: Network) -> list[Mapping[str, Any]]:
    """The bound at every gamma, of every seed."""
    return [row for rows in network.measured("bound", "gammas") for row in rows]


def _ramp_gap(gamma: float, network: Network) -> Interval | None:

    def of_run(run: CheckpointReport) -> Interval | None:
        rows = run.at("bound", "gammas") or ()
        gap = next((row["ramp_gap"] for row in rows if row["gamma"] == gamma), None)
        return None if gap is None else Interval(float(gap))

    return network.over_seeds(of_run)


def _bound_tables(data: ReportData) -> tuple[Table, ...]:
    """For every network the terms, and what makes the bound vacuous; means over seeds."""
    rows = tuple(
        (network.label, _cells(network)) for network in data.networks if network.measured("bound", "log10")
    )
    columns = (*(short for _, short, _ in TERMS), "k (nets, TwoNN)", "vacuous for", "because of")
    tables = (Table("The terms as powers of ten, means over seeds", columns, rows),) if rows else ()
    readings = tuple(
        (network.label, ("; ".join(dict.fromkeys(text for texts in every for text in texts)),))
        for network in data.networks
        if (every := network.measured("bound", "favourable"))
    )
    title = "Ways in which u_min is read in the network's favour"
    return tables + ((Table(title, ("readings",), readings),) if readings else ())


def _cells(network: Network) -> tuple[str, ...]:
    terms = [network.number("bound", "log10", key) for _, _, key in TERMS]
    dimensions = (network.number("bound", "covering", key) for key in ("dimension", "two_nn"))
    rows = _at_gammas(network)
    vacuous = sum(bool(row["vacuous"]) for row in rows)
    because = dict.fromkeys(reason for row in rows for reason in row["because"])
    return (
        *("-" if term is None else f"{term.value:.1f}" for term in terms),
        ", ".join(f"{dimension.value:.1f}" if dimension else "-" for dimension in dimensions),
        _vacuous(network, vacuous, len(rows)),
        ", ".join(because) or "-",
    )


def _vacuous(network: Network, vacuous: int, gammas: int) -> str:
    """At how many widths the bound says nothing; or that it is none, since it leaves layers out."""
    if not all(network.measured("bound", "is_bound")):
        return "no bound: it leaves layers out"
    return f"{vacuous} of {gammas} gammas" if gammas else "-"
