"""Effects of robustness on a network: spectra, activations, margins, smoothness, landscapes, bounds.

Plain functions on a model and tensors, and measures built on them, which studies name.
"""

from robustlens.certification.margin import certificate
from robustlens.explain.activations import activations
from robustlens.explain.bound import bound, covering, instance_margins, intrinsic_dimension
from robustlens.explain.curvature import curvature
from robustlens.explain.flatness import flatness
from robustlens.explain.gallery import gallery
from robustlens.explain.gradients import gradients
from robustlens.explain.jacobian import jacobian
from robustlens.explain.landscape import input_landscape, landscape, plane
from robustlens.explain.margins import margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.parts import (
    Part,
    measure_part_of_model,
    measure_part_of_run,
    parts_of_model,
    parts_of_run,
)
from robustlens.explain.registry import MEASURES, get
from robustlens.explain.run import explain, explain_model, explain_run
from robustlens.explain.sharpness import sharpness
from robustlens.explain.smoothness import feature_changes, smoothness
from robustlens.spectra import density, extremes, spectral_norms, spectrum, uncovered

# A file here may share its name with the function in it. The function wins as long as the file is loaded
# before the name is bound to it: a file that a later import loads would take the name.

__all__ = [
    "MEASURES",
    "Measure",
    "Measurement",
    "Part",
    "Subject",
    "activations",
    "bound",
    "certificate",
    "covering",
    "curvature",
    "density",
    "explain",
    "explain_model",
    "explain_run",
    "extremes",
    "feature_changes",
    "flatness",
    "gallery",
    "get",
    "gradients",
    "input_landscape",
    "instance_margins",
    "intrinsic_dimension",
    "jacobian",
    "landscape",
    "margins",
    "measure_part_of_model",
    "measure_part_of_run",
    "parts_of_model",
    "parts_of_run",
    "plane",
    "sharpness",
    "smoothness",
    "spectral_norms",
    "spectrum",
    "uncovered",
]
