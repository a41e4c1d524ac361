"""A network whose margins can be bounded over a threat model, batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import models
from robustlens.certification.ball import Ball
from robustlens.certification.graph import Graph, record
from robustlens.certification.operations import Rule, rules_of
from robustlens.certification.propagation import Means, Propagation, row_norms
from robustlens.errors import ModelError
from robustlens.threat import ThreatModel

METHODS: dict[str, tuple[Means, Means]] = {
    "ibp": ("interval", "interval"),
    "crown-ibp": ("interval", "linear"),
    "crown": ("linear", "linear"),
}
"""How each method bounds the inputs of ReLUs, and the margins."""
_AGREEMENT = 1e-3
"""How far the graph's logits may lie from the model's, as a share of the image's largest."""


@dataclass(frozen=True, eq=False)
class BoundedNetwork:
    """A network in eval mode as float64 operations with their rules.

    Attributes:
        graph, rules: the operations.
        device: of the bounds.
        threat: norm and pixel bounds.
        method: of `METHODS`.
        growth: by `row_norms`, for L2 and L1.
    """

    graph: Graph
    rules: Mapping[int, Rule]
    device: torch.device
    threat: ThreatModel
    method: str
    growth: Mapping[int, Tensor]

    @classmethod
    def of(cls, model: nn.Module, shape: Sequence[int], threat: ThreatModel, method: str) -> "BoundedNetwork":
        """The network as its weights are now, for images of a shape; left as it was.

        Raises:
            ModelError: an operation has no rule.
        """
        model = getattr(model, "_orig_mod", model)
        graph, at = record(model, shape), models.device_of(model)
        device = torch.device("cpu") if at.type == "mps" else at  # which has no float64
        tensors = {
            name: tensor.detach().to(device, torch.float64 if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        with torch.no_grad():
            rules = rules_of(graph, graph.constants(tensors))
            like = torch.zeros((), dtype=torch.float64, device=device)
            growth = {} if threat.norm == "Linf" else row_norms(graph, rules, like, threat.norm)
        return cls(graph, rules, device, threat, method, growth)

    @torch.no_grad()
    def margins(
        self, x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], eps: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c"]:
        """Lower bounds of f_y - f_i within `eps` of each image, for every class i; infinite for y itself."""
        intermediate, final = METHODS[self.method]
        ball = Ball(self._exact(x), self._exact(eps), self.threat)
        propagation = Propagation(self.graph, self.rules, ball, self.growth, intermediate)
        return propagation.margins(y.to(self.device), final).cpu()

    @torch.no_grad()
    def checked_logits(self, model: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """The model's logits, which the operations give too, there and at a corner of each image's ball.

        Logits that are not finite cannot be compared; they become NaN, which is wrong.

        Raises:
            ModelError: they do not: the model does more than what was recorded.
        """
        logits = self._compared(model, x)
        if 0 < self.threat.eps < torch.inf:
            draws = torch.Generator().manual_seed(0)
            signs = 2 * torch.randint(2, x.shape, generator=draws).to(x) - 1
            corner = self.threat.project(x + self.threat.eps * signs, x)
            logits[self._compared(model, corner).isnan().any(1)] = torch.nan
        return logits

    def _compared(self, model: nn.Module, x: Tensor) -> Tensor:
        """The model's logits at points, with NaN in the rows that are not finite."""
        logits: Tensor = model(x.to(models.device_of(model))).detach().cpu()
        nowhere = ThreatModel("Linf", 0.0, (-torch.inf, torch.inf))
        ball = Ball(self._exact(x), x.new_zeros(len(x), dtype=torch.float64, device=self.device), nowhere)
        low, high = (
            each.cpu() for each in Propagation(self.graph, self.rules, ball).bounds[self.graph.output]
        )
        finite, exact = logits.isfinite().all(1), logits.double()
        rounding, sizes = torch.finfo(logits.dtype).eps, exact.abs().amax(1, keepdim=True)
        largest = sizes[finite].amax() if finite.any() else 0.0
        allowed = max(_AGREEMENT, 8 * rounding) * sizes + rounding * largest
        agrees = (low - allowed <= exact) & (exact <= high + allowed)
        if not agrees[finite].all():
            raise ModelError(
                "certify: the operations that were recorded do not give the model's logits, as where it has "
                "state, calls numpy or depends on the batch; expected a network that is a fixed chain of "
                "operations, or method 'smoothing'"
            )
        return torch.where(finite[:, None], logits, torch.nan)

    def _exact(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, torch.float64)
