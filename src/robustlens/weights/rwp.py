"""Random weight perturbation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlens import processes
from robustlens.weights.perturbation import (
    Craft,
    LossFn,
    WeightPerturbation,
    check_size,
    relative,
)


class RandomWeightPerturbation(WeightPerturbation):
    """RWP: as AWP, along a Gaussian direction instead of the worst one. It costs no extra pass.

    v_l = gamma * ||w_l|| * n_l / ||n_l||. The random counterpart against which Wu et al. 2020 (section 3)
    argue for adversarial weights, and a method of its own (He et al. 2019, "Parametric noise injection";
    Li et al. 2022, "Efficient generalization improvement guided by random weight perturbation", who scale
    filter by filter and mix both gradients).

    Args:
        model: the network being trained.
        gamma: relative size of the perturbation of each tensor.
    """

    name = "rwp"

    def __init__(self, model: nn.Module, gamma: float = 0.01) -> None:
        check_size("rwp.gamma", gamma)
        self.gamma = gamma
        super().__init__(model)

    def offsets(
        self, losses: Sequence[LossFn], craft: Craft | None = None, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """A random perturbation, whatever the loss."""
        weights = self.weights()
        draws = [torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w) for w in weights]
        # The global random states of the ranks need not agree.
        if generator is None and processes.are_connected():
            for draw in draws:
                torch.distributed.broadcast(draw, src=0)
        return relative(weights, draws, self.gamma)
