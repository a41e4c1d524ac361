"""The layers that one forward pass calls, and what has weights there and is none of them."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens.models import Normalize, forward, inference
from robustlens.models.hooks import Convolutional, hooked, input_of, tensors_in
from robustlens.models.inputs import check_network
from robustlens.models.layers import NORM_LAYERS
from robustlens.spectra.layers import Layer, Size, blank, is_covered, parts_of

_OWN = frozenset(
    [
        *("weight", "bias", "weight_g", "weight_v", "weight_orig", "running_mean", "running_var"),
        *("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    ]
)
"""Tensors of a covered layer that are its map, its bias, or what its map is made of."""


@dataclass(frozen=True)
class Uncovered:
    """A part of a network with weights that is no linear map known by its type.

    Attributes:
        kind: its type; of a tensor of a module with parts, "parameter of" or "buffer of" the module's type.
        parameters: how many numbers it has.
        norm: their L2 norm.
    """

    kind: str
    parameters: int
    norm: float


@dataclass(frozen=True, eq=False)
class Survey:
    """The linear maps of a network and what else has weights, both by name; and how often each module ran."""

    layers: Mapping[str, Layer]
    uncovered: Mapping[str, Uncovered]
    calls: Mapping[nn.Module, int]

    @classmethod
    def of(cls, model: nn.Module, input_shape: Sequence[int]) -> "Survey":
        """Survey of one forward pass in eval mode; the model is left as it was.

        A convolution that sees feature maps of several sizes is several maps of the same weights, and named
        among the uncovered.

        Raises:
            ModelError: the model does not take images of that shape.
        """
        check_network(model)
        modules = _modules(model)
        calls = _Calls()
        hookable = [module for module in modules.values() if not isinstance(module, torch.jit.ScriptModule)]
        with hooked(hookable, after=calls.ended), inference(model), calls:
            forward(model, blank(model, input_shape))
        layers: dict[str, Layer] = {}
        others: dict[str, Uncovered] = {}
        for name, module in modules.items():
            sizes = calls.sizes.get(module, set())
            if len(sizes) > 1:
                kind = f"{type(module).__name__} on feature maps of several sizes"
                others[name] = _described(kind, list(module.parameters()))
            elif module in calls.sizes and is_covered(module):
                layers |= parts_of(name, module, *(next(iter(sizes), None) or (None, None)))
                others |= _tensors_in(name, module, calls, apart_from=_OWN)
            else:
                others |= _uncovered_in(name, module, calls)
        return cls(layers, others, calls.counts)


def trace(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Layer]:
    """The linear maps that one forward pass in eval mode calls, with their feature-map sizes.

    Convolutions, transposed ones, linear layers, the projections of attention layers ("<layer>.q", ".k",
    ".v" and ".out_proj"), and BatchNorm as a factor for each channel.

    Raises:
        ModelError: the model does not take images of that shape.
    """
    return dict(Survey.of(model, input_shape).layers)


def uncovered(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Uncovered]:
    """Parts of a network that no spectrum covers, by name; arguments and errors as `trace`.

    Whatever has weights (or buffers) that the forward pass uses, and is not one of the layers of `trace`:
    recurrent layers, embeddings, parameters of your own, subclasses with a forward of their own; and
    normalisation by the statistics of what is read, with weights or without. Additive parameters, such as
    those of positions, are named too, though a bias is no part of a linear map: code does not say which is
    which.
    """
    return dict(Survey.of(model, input_shape).uncovered)


def in_words(uncovered: Mapping[str, Uncovered]) -> str:
    """Names of uncovered parts with their kinds, for people."""
    return ", ".join(f"{name} ({part.kind})" for name, part in uncovered.items())


class _Calls(TorchFunctionMode):
    """Notes which modules end, what convolutions read and give, and which tensors functions use."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[nn.Module] = Counter()
        self.sizes: dict[nn.Module, set[tuple[Size, Size] | None]] = {}
        self.used: dict[int, Tensor] = {}  # holding a tensor keeps its id from another

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for tensor in tensors_in([args, kwargs or {}]):
            self.used[id(tensor)] = tensor
        return func(*args, **(kwargs or {}))

    def ended(self, module: nn.Module, args: Any, named: Any, output: Any) -> None:
        """A module has ended."""
        self.counts[module] += 1
        sizes = self.sizes.setdefault(module, set())
        if isinstance(module, Convolutional):
            sides = len(module.kernel_size)
            sizes.add((tuple(input_of(args, named).shape[-sides:]), tuple(output.shape[-sides:])))


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by name, but for those inside a covered layer, or in a script, which runs as a whole."""
    modules: dict[str, nn.Module] = {}
    closed: list[str] = []
    for name, module in model.named_modules():
        if not any(name.startswith(f"{outer}.".lstrip(".")) for outer in closed):
            modules[name] = module
            if is_covered(module) or isinstance(module, torch.jit.ScriptModule):
                closed.append(name)
    return modules


def _uncovered_in(name: str, module: nn.Module, calls: _Calls) -> dict[str, Uncovered]:
    """A module that is used and not covered: as a whole, or of one with parts the tensors of its own."""
    if isinstance(module, Normalize):
        return {}
    kind, scripted = type(module).__name__, isinstance(module, torch.jit.ScriptModule)
    if any(module.children()) and not scripted:
        return _tensors_in(name, module, calls)
    tensors = [tensor for _, _, tensor in _used(module, calls, recurse=scripted)]
    rescales = isinstance(module, NORM_LAYERS) and module in calls.sizes
    return {name or kind: _described(kind, tensors)} if tensors or rescales else {}


def _tensors_in(
    name: str, module: nn.Module, calls: _Calls, apart_from: frozenset[str] = frozenset()
) -> dict[str, Uncovered]:
    """The tensors of a module's own that are used, one by one."""
    return {
        f"{name}.{own}".strip("."): _described(f"{what} of {type(module).__name__}", [tensor])
        for own, what, tensor in _used(module, calls)
        if own not in apart_from
    }


def _used(module: nn.Module, calls: _Calls, *, recurse: bool = False) -> Iterator[tuple[str, str, Tensor]]:
    """Name, kind and value of parameters, where the module or a function used them, and of used buffers."""
    for name, parameter in module.named_parameters(recurse=recurse):
        if recurse or module in calls.sizes or id(parameter) in calls.used:
            yield name, "parameter", parameter
    for name, buffer in module.named_buffers(recurse=recurse):
        if buffer.is_floating_point() and (recurse or id(buffer) in calls.used):
            yield name, "buffer", buffer


def _described(kind: str, tensors: Sequence[Tensor]) -> Uncovered:
    squares = [float(tensor.detach().double().square().sum()) for tensor in tensors]
    return Uncovered(kind, sum(tensor.numel() for tensor in tensors), math.sqrt(math.fsum(squares)))
