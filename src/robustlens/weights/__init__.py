"""Weights around a training step: perturbed for it, averaged over steps, projected on a range.

To add a perturbation: a subclass of `WeightPerturbation` in a file of its own, and a line in `PERTURBATIONS`.
"""

from robustlens.registry import Registry
from robustlens.weights.averaging import ExponentialMovingAverage
from robustlens.weights.awp import AdversarialWeightPerturbation
from robustlens.weights.matrices import layer_matrices, matrix_parameters, named_matrix_parameters
from robustlens.weights.perturbation import WeightPerturbation, offset_weights
from robustlens.weights.rwp import RandomWeightPerturbation
from robustlens.weights.sam import SharpnessAwareMinimization
from robustlens.weights.singular_values import bound_singular_values

__all__ = [
    "PERTURBATIONS",
    "AdversarialWeightPerturbation",
    "ExponentialMovingAverage",
    "RandomWeightPerturbation",
    "SharpnessAwareMinimization",
    "WeightPerturbation",
    "bound_singular_values",
    "layer_matrices",
    "matrix_parameters",
    "named_matrix_parameters",
    "offset_weights",
]

PERTURBATIONS: Registry[type[WeightPerturbation]] = Registry(
    "weight perturbation",
    {
        "awp": AdversarialWeightPerturbation,
        "rwp": RandomWeightPerturbation,
        "sam": SharpnessAwareMinimization,
    },
    hidden=("model",),
    factories=True,
    result_type=WeightPerturbation,
)
"""Perturbations of the weights, by the recipe's field that asks for them."""
