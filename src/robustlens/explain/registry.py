"""The measures by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from robustlens.explain.activations import measure_activations
from robustlens.explain.bound.measure import measure_bound
from robustlens.explain.curvature import measure_curvature
from robustlens.explain.flatness import measure_flatness
from robustlens.explain.gallery import measure_gallery
from robustlens.explain.gradients import measure_gradients
from robustlens.explain.jacobian import measure_jacobian
from robustlens.explain.landscape.measure import measure_landscape
from robustlens.explain.margins import measure_margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.sharpness import measure_sharpness
from robustlens.explain.smoothness import measure_smoothness
from robustlens.explain.spectrum import measure_spectrum
from robustlens.registry import Registry

MEASURES: Registry[Measure] = Registry(
    "measure",
    {
        "spectrum": measure_spectrum,
        "jacobian": measure_jacobian,
        "activations": measure_activations,
        "margins": measure_margins,
        "smoothness": measure_smoothness,
        "gallery": measure_gallery,
        "gradients": measure_gradients,
        "landscape": measure_landscape,
        "flatness": measure_flatness,
        "curvature": measure_curvature,
        "sharpness": measure_sharpness,
        "bound": measure_bound,
    },
    hidden=("subject",),
    factories=True,
    result_type=Measurement,
)
"""Every measure. To add one: write `(subject, **options) -> Measurement`, annotated, and a line here."""


def get(name: str, **options: Any) -> Callable[[Subject], Measurement]:
    """The measure `name`, or that of a "package.module:factory", with its options.

    Raises:
        ConfigError: unknown measure, an option that it does not have, or a value of another type or range.
    """
    measure = MEASURES.find(name, "measures")
    return partial(measure, **MEASURES.checked(name, options, f"explanation.options.{name}"))
