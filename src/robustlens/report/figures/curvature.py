"""Figure of the curvature: density of the eigenvalues of the adversarial loss's Hessian."""

import numpy as np

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, floats, view
from robustlens.report.figures.panels import views


def curvature(data: ReportData) -> Figure:
    """Density of the Hessian's eigenvalues."""
    kinds = (("Relative, at matched temperature", "relative_"), ("Plain", ""))
    return Figure(
        "curvature",
        "Landscape",
        "Curvature of the adversarial loss",
        "Nearly all eigenvalues are near zero; how far the tail reaches to the right says how sharp the "
        "sharpest directions are.",
        views(*(view(name, [_density(data, prefix)]) for name, prefix in kinds)),
        note="Stochastic Lanczos quadrature of the Hessian at the adversarial images of w, smoothed. The "
        "relative one counts weights in units of their filter's root mean square.",
        selector="Hessian",
        missing="Measured where the plan names the measure `curvature`.",
    )


def _density(data: ReportData, prefix: str) -> Panel:
    title = "Density of eigenvalues"
    every = ((network.label, _quadrature(network, prefix)) for network in data.networks)
    curves = [(label, quadrature) for label, quadrature in every if quadrature]
    if not curves:
        return Panel(title, Axis(""), Axis(""))
    low = min(nodes.min() for _, (nodes, _) in curves)
    high = max(nodes.max() for _, (nodes, _) in curves)
    width = (high - low) / 60 or 1.0
    grid = np.linspace(low - 3 * width, high + 3 * width, 200)
    series = tuple(
        Series(label, floats(grid), floats(_smoothed(grid, width, nodes, weights)))
        for label, (nodes, weights) in curves
    )
    axis = Axis("density", kind="log", range=(1e-4 / width, 1 / width))
    return Panel(title, Axis("eigenvalue (nats)"), axis, series)


def _quadrature(network: Network, prefix: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Nodes and weights of all seeds together; None where there are none."""
    nodes, weights = (network.arrays("curvature", f"test_{prefix}{name}") for name in ("nodes", "weights"))
    if not nodes or len(nodes) != len(weights):
        return None
    shares = [each.ravel() / len(weights) for each in weights]
    return np.concatenate([each.ravel() for each in nodes]), np.concatenate(shares)


def _smoothed(grid: np.ndarray, width: float, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The quadrature's points as Gaussians of this width; what is too small for the log axis at its floor."""
    bells = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return np.maximum(bells @ weights, 1e-6 / width)
