"""Figures of landscapes: along directions in weight space, over planes, and around the images."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import (
    Axis,
    Figure,
    Panel,
    Series,
    Surface,
    View,
    fitted,
    floats,
    thinned,
    view,
)
from robustlens.report.figures.panels import views

_LOSS, _ERROR = Axis("cross entropy (nats)"), Axis("error rate", percent=True)
Kinds = tuple[tuple[str, str, Axis], ...]
"""Panels of a view: title, end of the array's name, axis of the values."""
_WEIGHT_KINDS: Kinds = (
    ("Adversarial loss", "loss", _LOSS),
    ("At matched temperature", "matched", _LOSS),
    ("Adversarial error rate", "error", _ERROR),
)
_IMAGE_KINDS: Kinds = (("Loss", "loss", _LOSS), ("Error rate", "error", _ERROR))


def landscape(data: ReportData) -> Figure:
    """Adversarial loss along random directions in weight space, attacked anew at every point."""
    every = [_line_view(data, split, rise) for split in ("test", "train") for rise in (False, True)]
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


def plane(data: ReportData) -> Figure:
    """The adversarial loss over two random directions in weight space, a network at a time."""
    axes = Axis("a, distance along the first direction"), Axis("b, along the second")
    return Figure(
        "landscape-plane",
        "Landscape",
        "Adversarial weight-loss landscape over two directions",
        "Look for a wide, round basin around the middle; compare networks on the scale of the values, which "
        "each has of its own.",
        _surfaces(data, "plane_alpha", "test_plane_", axes, _WEIGHT_KINDS),
        note="Adversarial examples are crafted anew at every w + a d + b e, d and e filter-normalised; means "
        "over test images (and seeds).",
        selector="Network",
        missing="Measured where the landscape's option `plane` asks for it.",
    )


def around_images(data: ReportData) -> Figure:
    """The loss around the images, along the gradient and along noise, a network at a time."""
    axes = Axis("a, steps of eps along the gradient"), Axis("b, steps of eps along noise")
    return Figure(
        "landscape-input",
        "Landscape",
        "Loss around the images",
        "A robust network's loss rises evenly along the gradient and hardly along noise; a loss that is "
        "rough, or highest off the gradient's axis, hides its gradients from attacks.",
        _surfaces(data, "input_radius", "test_input_", axes, _IMAGE_KINDS),
        note="Means over test images (and seeds) of the loss at x + a g + b r, both steps eps long.",
        selector="Network",
        missing="Measured where the landscape's option `input` asks for it.",
    )


def _line_view(data: ReportData, split: str, rise: bool) -> View | None:
    panels = []
    for title, key, values in _WEIGHT_KINDS:
        lines = [line for network in data.networks if (line := _line(network, f"{split}_{key}", rise))]
        axis = Axis(f"rise of the {values.title}", percent=values.percent) if rise else values
        if not rise and not values.percent:
            # Under attack the loss of a standard network would dwarf all the others.
            hardened = {network.label for network in data.networks if network.eps > 0}
            axis = fitted(axis, [y for line in lines if line.label in hardened for y in line.y])
        panels.append(Panel(title, Axis("alpha, distance along d"), axis, tuple(lines)))
    return view(f"{split.capitalize()} images{', rise over alpha = 0' if rise else ''}", panels)


def _line(network: Network, key: str, rise: bool) -> Series | None:
    """Mean over images and directions; the band spans the directions, of all seeds."""
    alpha, draws = _on_one_grid(network, "alpha", key)
    draws = [array for array in draws if array.ndim == 3]
    if not draws:
        return None
    heights = np.concatenate([array.astype(np.float64).mean(2) for array in draws], axis=1)
    if rise:
        heights = heights - heights[np.abs(alpha).argmin()]
    kept = thinned(len(alpha))
    heights = heights[kept]
    band = heights.shape[1] > 1
    return Series(
        network.label,
        floats(alpha[kept]),
        floats(heights.mean(1)),
        floats(heights.min(1)) if band else (),
        floats(heights.max(1)) if band else (),
    )


def _on_one_grid(network: Network, grid: str, key: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The points of the first seed that has them, and an array of every seed over the same points."""
    points = np.empty(0)
    arrays: list[np.ndarray] = []
    for run in network.runs:
        own, array = run.array("landscape", grid), run.array("landscape", key)
        if own is None or array is None or len(array) != len(own):
            continue
        points = points if arrays else own
        if np.array_equal(own, points):
            arrays.append(array)
    return points, arrays


def _surfaces(
    data: ReportData, grid: str, prefix: str, axes: tuple[Axis, Axis], kinds: Kinds
) -> tuple[View, ...]:
    """Two views for each network, with a panel for each of `kinds`: from above, and in space.

    Views from above come first: the page draws a surface, which takes WebGL, only where it is asked for.
    """

    def panels(network: Network, mark: Literal["contour", "surface"]) -> Iterable[Panel]:
        for title, kind, axis in kinds:
            points, seeds = _on_one_grid(network, grid, prefix + kind)
            same = [heights for heights in seeds if heights.shape == (len(points),) * 2]
            if same:
                ends = floats(points)
                rows = tuple(floats(row) for row in np.mean(same, axis=0).T)  # x is the array's first axis
                yield Panel(title, *axes, surface=Surface(network.label, ends, ends, rows, axis, mark))

    above = [view(network.label, panels(network, "contour")) for network in data.networks]
    in_space = [view(f"{network.label}, in space", panels(network, "surface")) for network in data.networks]
    return views(*above, *in_space)
