"""A network changed to give its logits in less time, whose weights follow those of the network."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.flattening import AveragePixels, FlattenPixels
from robustlens.models.folding import fold, folded_tensors, observe, swap
from robustlens.models.patches import PatchConvolution


@dataclass(frozen=True)
class Changes:
    """The changes to a network.

    Attributes:
        folds: BatchNorms go into the layers before them.
        lowers: convolutions and linear layers work in bfloat16, but for the last.
        layout: of the images of convolutions.
    """

    folds: bool = True
    lowers: bool = False
    layout: torch.memory_format = torch.channels_last


class Cast(nn.Module):
    """A layer in a precision of its own: its weights are cast once, its input in every pass."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(dtype)
        self.dtype = dtype

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The layer's output, in its precision."""
        return self.layer(x.to(self.dtype))


class FastNetwork:
    """A frozen copy of `model` in eval mode, changed to take less time.

    Convolutions of few channels always work on patches. Where channels lie last in memory, so do those of
    a map that is made a vector or averaged.

    Args:
        model: in any mode; left as it is.
        x: a few images to observe it on, on its device.
        changes: what else is changed.

    Attributes:
        network: the copy.
        is_faster: whether anything has been changed but the layout.
    """

    def __init__(self, model: nn.Module, x: Float[Tensor, "n ..."], changes: Changes) -> None:
        self.network = copied(model)
        self._sources: dict[Any, Any] = dict(zip(self.network.modules(), model.modules(), strict=True))
        seen = observe(self.network, x) if changes.folds or changes.lowers else None
        self._pairs = seen.pairs if seen and changes.folds else ()
        if changes.folds:
            fold(self.network, self._pairs)
        swaps: dict[nn.Module, nn.Module] = {}
        self._channels: dict[Tensor, int] = {}  # of the maps whose pixels a weight takes one after the other
        if seen and changes.layout is torch.channels_last:
            for flatten, linear, channels in seen.flattened:
                swaps[flatten] = FlattenPixels(flatten)
                weight = FlattenPixels.reordered(linear.weight, channels)
                linear.weight = nn.Parameter(weight, requires_grad=False)
                self._channels[linear.weight] = channels
        for layer in self.network.modules():
            if PatchConvolution.fits(layer):
                swaps[layer] = PatchConvolution(layer)
            if AveragePixels.fits(layer) and changes.layout is torch.channels_last:
                swaps[layer] = AveragePixels()
        if seen and changes.lowers:
            dtypes = dict.fromkeys(seen.layers, torch.bfloat16) | {seen.layers[-1]: torch.float32}
            swaps |= {layer: Cast(swaps.get(layer, layer), dtype) for layer, dtype in dtypes.items()}
        swap(self.network, swaps)
        self.is_faster = bool(self._pairs or swaps)
        in_layout: Callable[..., nn.Module] = self.network.to  # torch's type hints leave memory_format out
        in_layout(memory_format=changes.layout).eval()

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The copy, with the weights and running statistics that the network has now.

        BatchNorms are folded in the network's precision here, on its device; at first, in float64.
        """
        folded: set[nn.Module] = {layer for _, layer in self._pairs}
        own: list[Tensor] = []
        theirs: list[Tensor] = []
        for module in self.network.modules():
            if module in self._sources and module not in folded:
                own += own_tensors(module)
                theirs += own_tensors(self._sources[module])
        for norm, layer in self._pairs:
            own += [layer.weight, cast(Tensor, layer.bias)]
            theirs += folded_tensors(self._sources[norm], self._sources[layer], Tensor.detach)
        for place, tensor in enumerate(own):
            if tensor in self._channels:
                theirs[place] = FlattenPixels.reordered(theirs[place], self._channels[tensor])
        if own:
            torch._foreach_copy_(own, theirs)
        return self.network


def copied(model: nn.Module) -> nn.Module:
    """A frozen copy in eval mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def own_tensors(module: nn.Module) -> list[Tensor]:
    """Weights and buffers of a module itself, without those of modules inside it."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
