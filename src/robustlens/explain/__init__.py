"""What robustness did to a network: spectra, activations, margins, smoothness, landscapes.

Each room offers plain functions on a model and tensors, and a measure built on them.
"""

from robustlens.explain.activations import activations
from robustlens.explain.explanation import MEASURES, arrays_of, as_json, explain, explain_run, get
from robustlens.explain.jacobian import jacobian
from robustlens.explain.landscape import landscape
from robustlens.explain.margins import margins
from robustlens.explain.measure import Measure, Measurement, Subject
from robustlens.explain.smoothness import feature_changes, smoothness
from robustlens.explain.spectrum import extremes, spectral_norms, spectrum

__all__ = [
    "MEASURES",
    "Measure",
    "Measurement",
    "Subject",
    "activations",
    "arrays_of",
    "as_json",
    "explain",
    "explain_run",
    "extremes",
    "feature_changes",
    "get",
    "jacobian",
    "landscape",
    "margins",
    "smoothness",
    "spectral_norms",
    "spectrum",
]
