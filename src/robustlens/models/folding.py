"""BatchNorm folded into the convolution or linear layer before it, for a network that is only evaluated.

In eval mode BatchNorm is `x * scale + shift` for each channel, which the layer before it can do for nothing.
Which layer comes before which BatchNorm is observed as the network runs. Unlike a symbolic trace this takes
any Python that its forward functions are made of, and leaves them as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens.models.flattening import Flatten, FlattenPixels
from robustlens.models.hooks import hooked, tensors_in
from robustlens.models.layers import is_exactly

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

# The ways in which Python reads the values of a tensor, on which it may then branch.
_NUMBERS = ("__bool__", "__int__", "__float__", "__index__", "item", "equal", "allclose", "__contains__")
_READS = frozenset([*_NUMBERS, "__array__", "numpy", "tolist"])
# Its other readings: a tensor's size and kind, which folding leaves alone.
_KINDS = (int, torch.Size, torch.dtype, torch.device)


@dataclass(frozen=True)
class Observed:
    """Observations of a network as it runs.

    Attributes:
        pairs: each BatchNorm that can be folded, with its layer: both ran once, nothing but the BatchNorm got
            the layer's output, nothing but they themselves used their weights, and no value of a tensor
            decided what ran.
        layers: the convolutions and linear layers in the order in which they ran.
        flattened: each layer that flattens maps for one linear layer alone, under the same conditions, that
            layer, and the channels of the maps.
    """

    pairs: tuple[tuple[Norm, Layer], ...]
    layers: tuple[Layer, ...]
    flattened: tuple[tuple[Flatten, nn.Linear, int], ...] = ()


def observe(model: nn.Module, x: Float[Tensor, "n ..."]) -> Observed:
    """Run `model`, which is in eval mode, on `x`, and see which of its BatchNorms can be folded."""
    usage = _Usage()
    kinds = (_is_layer, _is_in_eval_mode, FlattenPixels.fits)
    watched = [module for module in model.modules() if any(is_one(module) for is_one in kinds)]
    with hooked(watched, before=usage.enter, after=usage.leave), torch.no_grad(), usage:
        output = model(x)
    return usage.report(output)


def fold(model: nn.Module, pairs: Iterable[tuple[Norm, Layer]]) -> None:
    """Let the layer of each (BatchNorm, layer) in `model` compute both."""
    swaps: dict[nn.Module, nn.Module] = {}
    for norm, layer in pairs:
        for name, value in zip(("weight", "bias"), folded_tensors(norm, layer, exact), strict=True):
            setattr(layer, name, nn.Parameter(value.to(layer.weight), requires_grad=False))
        swaps[norm] = nn.Identity()
    swap(model, swaps)


def swap(model: nn.Module, swaps: dict[nn.Module, nn.Module]) -> None:
    """Put the values of `swaps` in all the places that its keys have in `model`."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if path and module in swaps:
            model.set_submodule(path, swaps[module])


def _is_layer(module: nn.Module) -> TypeGuard[Layer]:
    """Whether it is torch's own layer."""
    return is_exactly(module, *get_args(Layer))


def _is_in_eval_mode(module: nn.Module) -> TypeGuard[Norm]:
    """Whether it is torch's own BatchNorm and normalises with running statistics."""
    return (
        is_exactly(module, *get_args(Norm))
        and not module.training
        and isinstance(module.running_mean, Tensor)
    )


class _Usage(TorchFunctionMode):
    """Counts who is given which tensor: torch functions, and the modules that are watched.

    Calls inside a watched module are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.made: dict[int, tuple[Tensor, nn.Module]] = {}  # a tensor kept alive keeps its id from another
        self.inputs: dict[nn.Module, Tensor] = {}
        self.ran: list[nn.Module] = []
        self.decides = False
        self.inside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.inside:
            self.decides |= func.__name__ in _READS
            if not isinstance(result, _KINDS):
                self.uses.update(map(id, tensors_in([args, kwargs])))
        return result

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A watched module begins."""
        self.uses.update(map(id, tensors_in([args, kwargs])))
        self.inside = True

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        """A watched module ends."""
        self.inside = False
        self.ran.append(module)
        self.inputs[module] = x = args[0] if args else next(iter(kwargs.values()))
        if output is not x and not _is_in_eval_mode(module):
            self.uses[id(output)] = 0
            self.made[id(output)] = (output, module)

    def report(self, output: Any) -> Observed:
        """The observations of a network that returned `output`."""
        self.uses.update(map(id, tensors_in(output)))
        couples = [] if self.decides else list(self._couples())
        return Observed(
            pairs=tuple(
                (later, former)
                for former, later in couples
                # a sequence has a linear layer's features in its last place
                if _is_layer(former)
                and _is_in_eval_mode(later)
                and self._dimensions(later) == former.weight.ndim
            ),
            layers=tuple(module for module in self.ran if _is_layer(module)),
            flattened=tuple(
                (former, later, self.inputs[former].shape[1])
                for former, later in couples
                if FlattenPixels.fits(former) and type(later) is nn.Linear and self._dimensions(former) == 4
            ),
        )

    def _couples(self) -> Iterable[tuple[nn.Module, nn.Module]]:
        """Two modules that ran once each, where the later alone got the output of the former."""
        for later, x in self.inputs.items():
            if id(x) not in self.made:
                continue
            _, former = self.made[id(x)]
            if (
                self.ran.count(former) == self.ran.count(later) == 1
                and self.uses[id(x)] == 1
                and not any(self.uses[id(own)] for own in [*_tensors(former), *_tensors(later)])
            ):
                yield former, later

    def _dimensions(self, module: nn.Module) -> int:
        return self.inputs[module].ndim


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def exact(tensor: Tensor) -> Tensor:
    """In float64, on the CPU, since not every device has it."""
    return tensor.detach().cpu().double()


def folded_tensors(norm: Norm, layer: Layer, precision: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias with which a layer computes the BatchNorm after it as well, in a precision."""
    scale, shift = scale_and_shift(norm, precision)
    weight = precision(layer.weight) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    return weight, shift if layer.bias is None else precision(layer.bias) * scale + shift


def scale_and_shift(
    norm: nn.modules.batchnorm._BatchNorm, precision: Callable[[Tensor], Tensor] = exact
) -> tuple[Tensor, Tensor]:
    """The factor and the summand of each channel of a BatchNorm in eval mode, in float64 by default."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (precision(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * precision(norm.weight)
    shift = -precision(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + precision(norm.bias)
