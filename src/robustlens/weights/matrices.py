"""The weights of a network that are matrices: those that perturbations move, and those of known layers."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from robustlens.errors import ConfigError
from robustlens.models.hooks import MatrixLayer
from robustlens.models.layers import NORM_LAYERS

_WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights of convolutions, linear layers and attention; attention's output is a linear layer."""


def named_matrix_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights with two or more dimensions, by name, whatever layer uses them.

    No bias, nothing of a normalisation layer, and no magnitude of a normalised weight (`weight_norm`), which
    is a scale as theirs are.
    """
    modules = (module for module in model.modules() if module._parameters)
    scales = {id(parameter) for module in modules for parameter in _scales_of(module)}
    return {name: p for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in scales}


def matrix_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of `named_matrix_parameters` that are trained."""
    return [parameter for parameter in named_matrix_parameters(model).values() if parameter.requires_grad]


def layer_matrices(model: nn.Module) -> list[Tensor]:
    """The trained weight (outputs, ...) of every convolution, linear layer and projection of attention, once.

    They are the layers of `spectra`. Those that share a tensor, as attention's q, k and v do, are views.

    Raises:
        ConfigError: there is none; a weight is made of other parameters, as by `weight_norm` or by pruning.
    """
    matrices: dict[int, tuple[Tensor, ...]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, MatrixLayer | nn.MultiheadAttention):
            continue
        for own in _WEIGHTS:
            weight = module._parameters.get(own)
            if weight is not None and weight.requires_grad:
                matrices[id(weight)] = weight.chunk(3) if own == "in_proj_weight" else (weight,)
            elif weight is None and _is_computed(module, own):
                raise ConfigError(
                    f"capacity: found that {own} of layer {name!r} is made of other parameters, expected a "
                    "parameter of its own; train without that parametrization, or without capacity"
                )
    if not matrices:
        raise ConfigError(
            "capacity: found no convolution, linear layer or attention with a trained weight, expected at "
            "least 1; leave it out"
        )
    return [matrix for parts in matrices.values() for matrix in parts]


def _scales_of(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of a module's own that scale what a weight or a map is after its normalisation."""
    if isinstance(module, NORM_LAYERS):
        yield from module.parameters(recurse=False)
    elif isinstance(module, parametrize.ParametrizationList):
        if any(isinstance(part, parametrizations._WeightNorm) for part in module):
            yield module.get_parameter("original0")
    else:  # the older `torch.nn.utils.weight_norm`
        for name, parameter in module._parameters.items():
            if parameter is not None and name.endswith("_g") and f"{name[:-2]}_v" in module._parameters:
                yield parameter


def _is_computed(module: nn.Module, name: str) -> bool:
    """Whether a weight is computed from trained parameters of a layer, and is none itself."""
    # Older ways leave a plain tensor; asking a parametrization for its weight may change its state.
    computed = parametrize.is_parametrized(module, name) or vars(module).get(name) is not None
    return computed and any(parameter.requires_grad for parameter in module.parameters())
