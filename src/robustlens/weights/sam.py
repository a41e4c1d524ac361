"""Sharpness-aware minimization (Foret et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlens.weights.perturbation import TINY, Craft, LossFn, WeightPerturbation, check_size


class SharpnessAwareMinimization(WeightPerturbation):
    """SAM (Foret et al. 2021, eq. 2): v = rho g / ||g||, one norm over all parameters.

    Biases and normalisation layers move as well, and nothing is scaled by the size of a tensor: the two ways
    in which AWP differs.

    Args:
        model: the network being trained.
        rho: length of the perturbation.
    """

    name = "sam"
    follows_gradient = True

    def __init__(self, model: nn.Module, rho: float = 0.05) -> None:
        check_size("sam.rho", rho)
        self.rho = rho
        super().__init__(model)

    def weights(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def offsets(
        self, losses: Sequence[LossFn], craft: Craft | None = None, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """One step of length rho along the gradient."""
        return self.offsets_along(self.gradient(losses))

    def offsets_along(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """One step of length rho from w along known gradients."""
        length = torch.stack([gradient.norm() for gradient in gradients]).norm()
        return [gradient * (self.rho / (length + TINY)) for gradient in gradients]
