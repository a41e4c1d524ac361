"""A radius within which no image changes the prediction, from the norms of the layers."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from robustlens.certification.lipschitz import Shape, flattened, is_nonlinear, log_constant, shapes_in
from robustlens.models import inference

_ROUNDING = 16  # errors of a logit, in units of the last place of the largest one; as in `MinimumNorm`


@dataclass(frozen=True, eq=False)
class Certificate:
    """Logits as an affine map after a Lipschitz map.

    Attributes:
        log_lipschitz: log of the constant of that map in L2; 0 where the whole network is affine.
        distances: L2 distances between the rows of the affine map's matrix.
    """

    log_lipschitz: float
    distances: Float64[Tensor, "c c"]

    def radius(self, logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Distance in L2 that every image of another class keeps at least; 0 where the prediction is not y.

        The smallest of (f_y - f_i) / (lipschitz * distance of the rows y and i), the gap being reduced by
        what rounding may have added to it.
        """
        exact, mine = logits.double(), y[:, None]
        unit = _ROUNDING * torch.finfo(logits.dtype).eps
        gap = exact.gather(1, mine) - exact - unit * exact.abs().amax(1, keepdim=True)
        radius = gap.clamp_min(0) / self.distances[y].scatter(1, mine, 1.0)
        nearest = radius.nan_to_num(0.0, torch.inf).scatter(1, mine, torch.inf).amin(1)
        return (nearest.log() - self.log_lipschitz).exp().nan_to_num(0.0, torch.inf)


def certificate(model: nn.Module, input_shape: Sequence[int]) -> Certificate:
    """Bound how fast the logits of a chain of layers change, in eval mode and L2.

    The chain is cut after its last nonlinear module. The modules after it are one matrix, of which each pair
    of classes has its own distance; the certificate of an affine network is exact, its pixel box aside. Those
    before it count as the product of their constants (Szegedy et al. 2014, section 4.3; Tsuzuku, Sato and
    Sugiyama 2018). Residual blocks of `robustlens.models` count as shortcut plus branch, which is safe, and
    loose.

    Args:
        model: nested `nn.Sequential`s of modules that `lipschitz` knows; left as it was.
        input_shape: of one image.

    Raises:
        ModelError: a module is of an unknown type, has hooks, or an option that no rule covers.
    """
    chain = list(flattened(model))
    with inference(model):
        shapes = shapes_in(chain, tuple(input_shape))
        cut = max((place + 1 for place, (_, module) in enumerate(chain) if is_nonlinear(module)), default=0)
        log_lipschitz = log_constant(chain[:cut], shapes)
        matrix = _matrix([module for _, module in chain[cut:]], shapes[cut])
        distances = torch.linalg.vector_norm(matrix[:, None] - matrix, dim=2)
        return Certificate(log_lipschitz, distances)


def _matrix(tail: Sequence[nn.Module], shape: Shape) -> Float64[Tensor, "c d"]:
    """The matrix of affine modules that run one after another."""
    layers = nn.Sequential(*[copy.deepcopy(module).cpu().double() for module in tail])

    def logits(flat: Tensor) -> Tensor:
        return layers(flat.view(1, *shape)).squeeze(0)

    with torch.enable_grad():
        return torch.func.jacrev(logits)(torch.zeros(math.prod(shape), dtype=torch.float64))
