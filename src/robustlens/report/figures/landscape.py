"""Figures of landscapes: planes in weight space, the loss around the images, curvature, and flatness."""

from collections.abc import Callable, Iterable, Sequence
from operator import methodcaller
from typing import Literal

import numpy as np

from robustlens.claims.correlations import LEAST
from robustlens.report.data import Checkpoint, Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Surface, View, floats, view
from robustlens.report.figures.accuracy import interval_series, views
from robustlens.report.text.wording import minus
from robustlens.stats.bootstrap import spearman
from robustlens.stats.intervals import Interval

NUMBERS = (
    ("Landscape rise", "rise of the adversarial loss at |alpha| = 0.5 (nats)", "landscape", "rise", "0.5"),
    ("Matched landscape rise", "the same at matched temperature", "landscape", "matched_rise", "0.5"),
    ("Average case", "average-case flatness (nats)", "flatness", "average", "loss"),
    ("Average case, matched", "the same at matched temperature", "flatness", "average", "matched"),
    ("Worst case", "worst-case flatness (nats)", "flatness", "worst", "loss"),
    ("Worst case, matched", "the same at matched temperature", "flatness", "worst", "matched"),
    (
        "Largest eigenvalue",
        "largest eigenvalue of the relative Hessian",
        "curvature",
        "relative_top_eigenvalue",
    ),
    ("Trace", "trace of the relative Hessian", "curvature", "relative_trace"),
    ("Largest eigenvalue, plain", "largest eigenvalue of the Hessian", "curvature", "top_eigenvalue"),
    ("Trace, plain", "trace of the Hessian", "curvature", "trace"),
)
"""Numbers that say how flat a network is: name, axis, measure and where it lies in the measure's value."""
_LOSS, _ERROR = Axis("cross entropy (nats)"), Axis("error rate", percent=True)
Read = Callable[[Checkpoint], Interval | None]
Point = tuple[str, float, Interval]
"""A network's label, how flat it is, and its robust gap."""


def plane(study: ReportData) -> Figure:
    """The adversarial loss over two random directions in weight space, a network at a time."""
    axes = Axis("a, distance along the first direction"), Axis("b, along the second")
    kinds = (
        ("Adversarial loss", "loss", _LOSS),
        ("At matched temperature", "matched", _LOSS),
        ("Adversarial error rate", "error", _ERROR),
    )
    return Figure(
        "landscape-plane",
        "Landscape",
        "Adversarial weight-loss landscape over two directions",
        "Look for a wide, round basin around the middle; compare networks on the scale of the values, which "
        "each has of its own.",
        _reliefs(study, "landscape/plane_alpha", "landscape/test_plane_{}", axes, kinds),
        note="Adversarial examples are crafted anew at every w + a d + b e, d and e filter-normalised; means "
        "over test images (and seeds).",
        selector="Network",
        missing="Measured where the landscape's option `plane` asks for it.",
    )


def around_images(study: ReportData) -> Figure:
    """The loss around the images, along the gradient and along noise, a network at a time."""
    axes = Axis("a, steps of eps along the gradient"), Axis("b, steps of eps along noise")
    kinds = (
        ("Loss", "loss", _LOSS),
        ("Error rate", "error", _ERROR),
    )
    return Figure(
        "landscape-input",
        "Landscape",
        "Loss around the images",
        "A robust network's loss rises evenly along the gradient and hardly along noise; a loss that is "
        "rough, or highest off the gradient's axis, hides its gradients from attacks.",
        _reliefs(study, "landscape/input_radius", "landscape/test_input_{}", axes, kinds),
        note="Means over test images (and seeds) of the loss at x + a g + b r, both steps eps long.",
        selector="Network",
        missing="Measured where the landscape's option `input` asks for it.",
    )


def flatness_and_gap(study: ReportData) -> Figure:
    """How flat each adversarially trained network is, against its robust gap; a view for each number.

    At the chosen checkpoint, at the last, and along training: a path for each network.
    """
    groups = [group for group in study.groups if group.eps > 0]
    gap = methodcaller("interval", "gaps", "robust")
    every = []
    for name, unit, *path in NUMBERS:
        flat = methodcaller("number", *path)
        chosen = _points((group, flat(group), gap(group)) for group in groups)
        last = _points((group, group.at_last(flat), group.at_last(gap)) for group in groups)
        along = [point for group in groups for point in _path(group, flat, gap)]
        panels = [
            scatter(f"Chosen checkpoint{_correlation(chosen)}", unit, chosen),
            scatter(f"Last checkpoint{_correlation(last)}", unit, last),
            scatter("Along training", unit, along),
        ]
        every.append(view(name, panels))
    return Figure(
        "flatness-gap",
        "Landscape",
        "Flatness against the robust gap",
        "Wu et al.: among adversarially trained networks the flatter have the smaller gap, so points should "
        "lie along a rising line, also at matched temperature, where low confidence does not look flat.",
        views(*every),
        note="Standard networks are left out. Whiskers are 95 % intervals of the gap (two seeds: its range).",
        selector="Flatness",
        missing="It takes an adversarially trained network with a measured landscape.",
    )


def scatter(title: str, unit: str, points: Iterable[Point]) -> Panel:
    """One marker for each point; those of a network (the epochs of its training) are joined in order."""
    by_label: dict[str, list[Point]] = {}
    for point in points:
        by_label.setdefault(point[0], []).append(point)
    series = tuple(
        interval_series(
            label,
            floats([flat for _, flat, _ in own]),
            [gap for *_, gap in own],
            "points" if len(own) == 1 else "both",
        )
        for label, own in by_label.items()
    )
    return Panel(title, Axis(unit), Axis("train - test robust accuracy", percent=True), series)


def along_training(study: ReportData) -> Figure:
    """The robust gap and what may go with it, epoch by epoch, as evaluated and not only as monitored."""
    groups = [group for group in study.groups if group.eps > 0]
    accuracies = (
        ("Robust gap", "train - test robust accuracy", ("gaps", "robust")),
        ("Robust accuracy, test", "accuracy", ("splits", "test", "robust")),
    )
    shown = [
        _over_epochs(groups, title, Axis(unit, percent=True), methodcaller("interval", *path))
        for title, unit, path in accuracies
    ]
    # The scatter says in full what each number is; here the axis has no room for it.
    numbers = [
        _over_epochs(groups, name, Axis("nats"), methodcaller("number", *path)) for name, _, *path in NUMBERS
    ]
    every = [view(panel.title, [*shown, panel]) for panel in numbers if panel.series]
    return Figure(
        "along-training",
        "Landscape",
        "Gap and flatness along training",
        "Wu et al.: where robust overfitting sets in, the gap widens and the landscape gets sharper; AWP "
        "should hold both down.",
        views(*every),
        note="Each epoch's weights evaluated and explained afresh, on the images and by the attacks of the "
        "table; over seeds as there.",
        selector="Flatness",
        missing="It takes a recipe with `keep_every` and a study with `checkpoint: every`.",
    )


def curvature(study: ReportData) -> Figure:
    """Density of the Hessian's eigenvalues."""
    every = [
        view(name, [_density(study, title, key) for title, key in panels])
        for name, panels in (
            ("Relative, at matched temperature", (("Density of eigenvalues", "relative_"),)),
            ("Plain", (("Density of eigenvalues", ""),)),
        )
    ]
    return Figure(
        "curvature",
        "Landscape",
        "Curvature of the adversarial loss",
        "Nearly all eigenvalues are near zero; how far the tail reaches to the right says how sharp the "
        "sharpest directions are.",
        views(*every),
        note="Stochastic Lanczos quadrature of the Hessian at the adversarial images of w, smoothed. The "
        "relative one counts weights in units of their filter's root mean square.",
        selector="Hessian",
        missing="Measured where the plan names the measure `curvature`.",
    )


# -- pieces --------------------------------------------------------------------------------------------


def _correlation(points: Sequence[Point]) -> str:
    """Spearman's correlation of flatness and gap, for a title; nothing of too few networks."""
    if len(points) < LEAST:
        return ""
    rho = spearman(np.array([flat for _, flat, _ in points]), np.array([gap.value for *_, gap in points]))
    return "" if rho is None else f", rank correlation {minus(f'{rho:.2f}')}"


def _points(found: Iterable[tuple[Network, Interval | None, Interval | None]]) -> list[Point]:
    """Those networks of which both the flatness and the gap are known."""
    return [(group.label, flat.value, gap) for group, flat, gap in found if flat and gap]


def _path(group: Network, flat: Read, gap: Read) -> list[Point]:
    """Flatness and gap of a network at every epoch at which both were measured, if there are several."""
    x, y = group.along(flat), group.along(gap)
    points = [(group.label, x[epoch].value, y[epoch]) for epoch in x if epoch in y]
    return points if len(points) > 1 else []


def _over_epochs(groups: Iterable[Network], title: str, axis: Axis, read: Read) -> Panel:
    """A line for each network that was measured at several epochs."""
    found = {group.label: group.along(read) for group in groups}
    series = (
        interval_series(label, floats(list(values)), list(values.values()), "both")
        for label, values in found.items()
        if len(values) > 1
    )
    return Panel(title, Axis("epoch"), axis, tuple(series))


def _reliefs(
    study: ReportData, grid: str, key: str, axes: tuple[Axis, Axis], kinds: tuple[tuple[str, str, Axis], ...]
) -> tuple[View, ...]:
    """Two views for each network, with a panel for each of `kinds`: from above, and in space.

    Views from above come first: the page draws a surface, which takes WebGL, only where it is asked for.
    """

    def panels(group: Network, mark: Literal["contour", "surface"]) -> Iterable[Panel]:
        for title, kind, axis in kinds:
            points, found = group.arrays(grid), group.arrays(key.format(kind))
            same = [z for z in found if points and z.shape == (len(points[0]),) * 2]
            if same:
                ends = floats(points[0])
                rows = tuple(floats(row) for row in np.mean(same, axis=0).T)  # x is the array's first axis
                yield Panel(title, *axes, relief=Surface(group.label, ends, ends, rows, axis, mark))

    above = [view(group.label, panels(group, "contour")) for group in study.groups]
    in_space = [view(f"{group.label}, in space", panels(group, "surface")) for group in study.groups]
    return views(*above, *in_space)


def _density(study: ReportData, title: str, prefix: str) -> Panel:
    curves = [(group.label, found) for group in study.groups if (found := _spectra(group, prefix))]
    if not curves:
        return Panel(title, Axis(""), Axis(""))
    low, high = (f([f(nodes) for _, (nodes, _) in curves]) for f in (min, max))
    width = (high - low) / 60 or 1.0
    grid = np.linspace(low - 3 * width, high + 3 * width, 200)
    series = tuple(
        Series(label, floats(grid), floats(_smoothed(grid, width, nodes, weights)))
        for label, (nodes, weights) in curves
    )
    axis = Axis("density", kind="log", range=(1e-4 / width, 1 / width))
    return Panel(title, Axis("eigenvalue (nats)"), axis, series)


def _spectra(group: Network, prefix: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Nodes and weights of all seeds together; None where there are none."""
    nodes, weights = (group.arrays(f"curvature/test_{prefix}{name}") for name in ("nodes", "weights"))
    if not nodes or len(nodes) != len(weights):
        return None
    shares = [each.ravel() / len(weights) for each in weights]
    return np.concatenate([each.ravel() for each in nodes]), np.concatenate(shares)


def _smoothed(grid: np.ndarray, width: float, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The quadrature's points as Gaussians of this width; what is too small for the log axis at its floor."""
    bells = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return np.maximum(bells @ weights, 1e-6 / width)
