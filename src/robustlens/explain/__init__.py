"""What robustness did to a network: spectra, activations, margins, smoothness, landscapes.

Each room offers plain functions on a model and tensors, and a measure built on them.
"""

from robustlens.certification.margin import certificate
from robustlens.explain.activations import activations
from robustlens.explain.bound.covering import covering, intrinsic_dimension
from robustlens.explain.bound.instance_margins import instance_margins
from robustlens.explain.bound.measure import bound
from robustlens.explain.curvature import curvature
from robustlens.explain.flatness import flatness
from robustlens.explain.jacobian import jacobian
from robustlens.explain.landscape import input_landscape, landscape, plane
from robustlens.explain.margins import margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.run import MEASURES, arrays_of, as_json, explain, explain_run, get
from robustlens.explain.smoothness import feature_changes, smoothness
from robustlens.spectra import extremes, spectral_norms, spectrum

__all__ = [
    "MEASURES",
    "Measure",
    "Measurement",
    "Subject",
    "activations",
    "arrays_of",
    "as_json",
    "bound",
    "certificate",
    "covering",
    "curvature",
    "explain",
    "explain_run",
    "extremes",
    "feature_changes",
    "flatness",
    "get",
    "input_landscape",
    "instance_margins",
    "intrinsic_dimension",
    "jacobian",
    "landscape",
    "margins",
    "plane",
    "smoothness",
    "spectral_norms",
    "spectrum",
]
