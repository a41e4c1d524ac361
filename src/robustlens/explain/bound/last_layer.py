"""The last layer of a network with the BatchNorm that belongs to it, and the features that it then reads.

For every c > 0, c (gamma, beta) of a BatchNorm and W / c in the last layer that reads it through a ReLU give
the logits that gamma, beta and W give. Distances of the rows of W alone would change by 1 / c, and the bound
with them. So the last layer is taken as `Folding` takes every other one, with |gamma / sigma| in its columns;
what it reads then are the features without that factor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens.models.inference import inference
from robustlens.models.last_layer import agree, forward_reading, last_linear
from robustlens.spectra.coverage import Survey
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import blank


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The linear layer that gives the logits.

    Attributes:
        name: of the layer in its network.
        module: the layer itself.
        weight: its weight with the BatchNorm before it, or after it, in it.
        factors: of each feature, which are in the weight and not in `features`; None where there are none.
    """

    name: str
    module: nn.Module
    weight: Float64[Tensor, "classes features"]
    factors: Float64[Tensor, " features"] | None

    @classmethod
    def of(cls, model: nn.Module, x: Float[Tensor, "n ..."]) -> "LastLayer":
        """That of `model`, which is left as it was; `x` is an image to find it by.

        Raises:
            ModelError: the last layer called is not linear, or is called more than once.
        """
        name = last_linear(model, x, where="bound")
        module, layers = model.get_submodule(name), Survey.of(model, x.shape[1:]).layers
        if name not in layers:  # of a type of its own, in which nothing is known to fold
            assert isinstance(module, nn.Linear)
            return cls(name, module, module.weight.detach().cpu().double(), None)
        folding = Folding.of(model, layers, blank(model, x.shape[1:]))
        return cls(name, module, folding.apart(layers)[name].weight, folding.columns(module))

    def features(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The function from images to what `weight` reads; 0 for features of which the factor is 0."""

        def of(images: Tensor) -> Tensor:
            read = forward_reading(model, self.module, images)[1][0]
            return read if self.factors is None else read * _inverse(self.factors, read)

        return of

    def gives_logits(self, model: nn.Module, x: Float[Tensor, "n ..."]) -> bool:
        """Whether logits move from image to image as `weight` and `features` say, but for their signs.

        A scale behind the layer makes every margin larger or smaller than its rows do.
        """
        with inference(model):
            logits, features = model(x), self.features(model)(x)
        weight = self.weight.to(features)
        moved, expected = (each - each[:1] for each in (logits, features @ weight.T))
        return agree(moved.abs(), expected.abs(), logits.abs() + features.abs() @ weight.abs().T)


def _inverse(factors: Float64[Tensor, " features"], like: Tensor) -> Tensor:
    """One over each factor, 0 where rounding of the largest hides it."""
    seen = factors > torch.finfo(like.dtype).eps * factors.max()
    return torch.where(seen, 1 / factors, 0.0).to(like)
