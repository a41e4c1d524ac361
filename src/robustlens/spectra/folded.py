"""Layers with the BatchNorm that belongs to them.

In eval mode BatchNorm multiplies each channel by gamma / sigma and shifts it. That makes the scale of the
weights beside it arbitrary, and their raw spectrum with it; folded in, the spectrum is that of a map which
the network really applies. Each BatchNorm goes to one side only:

*After* a layer, `bn(conv(x))`: the rows of the layer's matrix are multiplied by gamma / sigma. This is exact:
it is the linear part of both together. It is done where nothing else reads the layer's output.

*Before* layers otherwise, `conv(relu(bn(x)))`: with s = gamma / sigma and t the shift,
relu(s x + t) = |s| relu(sign(s) x + t / |s|), so |s| passes through the activation up to its shift, and the
columns of every layer that reads it are multiplied by |s|. Only signs and shifts are left before the
activation. Leaky ReLU, pooling and flattening let |s| pass in the same way.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens.models import inference
from robustlens.models.folding import Norm, observe, scale_and_shift
from robustlens.models.hooks import Convolutional, MatrixLayer, Transposed, hooked, reading
from robustlens.spectra.layers import Layer

_POOLS = ("max", "avg", "adaptive_max", "adaptive_avg")
_PASSING = frozenset(
    ["relu", "leaky_relu", "dropout", "flatten"]
    + [f"{kind}_pool{sides}d" for kind in _POOLS for sides in (1, 2, 3)]
)
"""Functions that give |s| f(x) for |s| x, channel by channel (dropout does nothing in eval mode)."""


@dataclass(frozen=True, eq=False)
class Folding:
    """Layers that BatchNorms scale: `after` are those that one follows, `before` those that read one."""

    after: Mapping[nn.Module, Norm]
    before: Mapping[nn.Module, Norm]

    @classmethod
    def of(cls, model: nn.Module, layers: Mapping[str, Layer], x: Float[Tensor, "n ..."]) -> "Folding":
        """Observe `model` on `x`, an image on its device, twice; it is left as it was."""
        matrices = {layer.module for layer in layers.values() if isinstance(layer.module, MatrixLayer)}
        with inference(model):
            pairs = observe(model, x).pairs
            after: dict[nn.Module, Norm] = {layer: norm for norm, layer in pairs if layer in matrices}
            readers = _readers(model, x, matrices)
        return cls(after, {layer: norm for layer, norm in readers.items() if norm not in after.values()})

    def applied(self, layers: Mapping[str, Layer]) -> dict[str, Layer]:
        """Those of `layers` that a BatchNorm scales, with their weights so scaled."""
        scaled = {}
        for name, layer in layers.items():
            weight = layer.weight
            if layer.module in self.after:
                scale, _ = scale_and_shift(self.after[layer.module])
                weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
            columns = self.columns(layer.module)
            if columns is not None:
                weight = weight * columns
            if layer.module in self.after or columns is not None:
                scaled[name] = replace(layer, folded=weight)
        return scaled

    def columns(self, module: nn.Module) -> Float64[Tensor, "..."] | None:
        """The factors |gamma / sigma| of the weight of a layer that reads a BatchNorm; None for others."""
        if module not in self.before:
            return None
        scale, _ = scale_and_shift(self.before[module])
        return _columns(scale.abs(), module)

    def apart(self, layers: Mapping[str, Layer]) -> dict[str, Layer]:
        """All of `layers`, folded where they can be, without the BatchNorms that are so in others."""
        gone = {*self.after.values(), *self.before.values()}
        return {
            name: layer
            for name, layer in {**layers, **self.applied(layers)}.items()
            if layer.module not in gone
        }


def _columns(scale: Float64[Tensor, " channels"], module: nn.Module) -> Float64[Tensor, "..."]:
    """Factors of the weight of a layer that reads channels of these scales."""
    if isinstance(module, nn.Linear):  # a flattened map has its pixels beside each other
        return scale.repeat_interleave(module.in_features // len(scale))
    assert isinstance(module, Convolutional)
    ones = [1] * len(module.kernel_size)
    if isinstance(module, Transposed):  # whose weight has its inputs first
        return scale.view(-1, 1, *ones)
    by_group = scale.view(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
    return by_group.flatten(0, 1).view(*by_group.flatten(0, 1).shape, *ones)


def _readers(
    model: nn.Module, x: Float[Tensor, "n ..."], matrices: Collection[nn.Module]
) -> dict[nn.Module, Norm]:
    """Each layer that reads one BatchNorm through functions that let its scale pass."""
    follower = _Follower()
    norms = [
        module
        for module in model.modules()
        if type(module) in get_args(Norm) and isinstance(module.running_mean, Tensor)
    ]
    with reading(matrices, follower.read), hooked(norms, after=follower.normalised), follower:
        model(x)
    readers = {
        layer: norm for layer in follower.sources if (norm := follower.norm_read_by(layer)) is not None
    }
    read = {call for layer in readers for call in follower.sources[layer]}
    # A BatchNorm of which a call is read by no layer stays one of its own, for all of its calls.
    apart = {norm for call, norm in enumerate(follower.calls) if call not in read}
    return {layer: norm for layer, norm in readers.items() if norm not in apart}


class _Follower(TorchFunctionMode):
    """Follows the output of a BatchNorm until a layer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Norm] = []
        # From what carries a scale to the call that gave it; holding a tensor keeps its id from another.
        self.carried: dict[int, tuple[Tensor, int]] = {}
        self.sources: dict[nn.Module, list[int | None]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        call = self._call_of(args[0]) if args else None
        result = func(*args, **(kwargs or {}))
        name = func.__name__.strip("_")
        if call is not None and name in _PASSING:
            self.carried[id(result)] = (result, call)
        else:  # written to, as by `x += y`
            self.carried.pop(id(args[0] if name == "setitem" else result), None)
        return result

    def normalised(self, norm: Any, args: Any, named: Any, output: Tensor) -> None:
        """Note that a BatchNorm has ended."""
        self.carried[id(output)] = (output, len(self.calls))
        self.calls.append(norm)

    def read(self, layer: nn.Module, x: Tensor) -> None:
        """Note that a layer has begun; a linear one takes the last side of a map for its features."""
        fits = isinstance(layer.weight, Tensor) and x.ndim == layer.weight.ndim
        self.sources.setdefault(layer, []).append(self._call_of(x) if fits else None)

    def norm_read_by(self, layer: nn.Module) -> Norm | None:
        """The BatchNorm that a layer reads each time; None where it reads several, or something else."""
        norms = {None if call is None else self.calls[call] for call in self.sources[layer]}
        return norms.pop() if len(norms) == 1 else None

    def _call_of(self, value: Any) -> int | None:
        return self.carried[id(value)][1] if id(value) in self.carried else None
