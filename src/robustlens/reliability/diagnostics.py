"""What the checks look at: a model, a sample of images, and what passes and attacks over them show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens import attacks, losses
from robustlens.attacks import Attack
from robustlens.errors import ModelError
from robustlens.reliability.state import State
from robustlens.threat import ThreatModel

_ATTACKED = 64
_WATCHED = 4  # few, since a forward pass that optimises may be long
_DIFFERENTIATE = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """A model in eval mode, some images, and what the evaluation has found so far.

    Attributes:
        model: put back to `state` after every pass and attack.
        x, y: the sample, and its labels.
        given_logits: clean logits of all images of the evaluation; None: those of the sample.
        threat: what the attacks of the evaluation may do.
        stood: which images of the sample stand after the evaluation; None: those that PGD-20 does not break.
        accuracy: share of all images that stand after the evaluation; None: as in the sample.
        fell: for each attack, in order, how many images fell to it first, and whether it uses gradients.
        state: the model as it was.
    """

    model: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, " n"]
    given_logits: Float[Tensor, "all c"] | None
    threat: ThreatModel
    stood: Bool[Tensor, " n"] | None
    accuracy: float | None
    fell: Mapping[str, tuple[int, bool]]
    state: State

    def run(self, x: Float[Tensor, "m ..."]) -> Float[Tensor, "m c"]:
        """Logits of `x`, from the state that the model was in at first."""
        try:
            with torch.no_grad():
                return self.model(x).detach()
        finally:
            self.state.restore()

    def survivors(self, attack: Attack, rows: Int64[Tensor, " m"]) -> Int64[Tensor, " k"]:
        """Those of the images `rows` that are still right after the attack."""
        if len(rows) == 0:
            return rows
        try:
            x_adv = attack(self.model, self.x[rows], self.y[rows])
        except ModelError:  # no gradient at all: there is nothing that it could climb
            return rows
        finally:
            self.state.restore()
        return rows[~losses.is_wrong(self.run(x_adv), self.y[rows])]

    @cached_property
    def takes_one(self) -> bool:
        """Whether the model can be run on a single image, as attacks do when all others have fallen."""
        try:
            self.run(self.x[:1])
        except (RuntimeError, ValueError):
            return False
        return True

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the sample, (n, c)."""
        return self.run(self.x)

    @cached_property
    def all_logits(self) -> Tensor:
        """Clean logits of all images of the evaluation, (all, c)."""
        return self.logits if self.given_logits is None else self.given_logits

    @cached_property
    def right(self) -> Tensor:
        """The images that are classified correctly, at most 64, (m,): the checks that attack take no more."""
        return torch.nonzero(~losses.is_wrong(self.logits, self.y)).squeeze(1)[:_ATTACKED]

    @cached_property
    def standing(self) -> Tensor:
        """The images that stand after the evaluation, at most 64, (m,)."""
        if self.stood is None:
            return self.survivors(attacks.get("cw-20", self.threat), self.right)
        right = ~losses.is_wrong(self.logits, self.y)
        return torch.nonzero(right & self.stood.to(right.device)).squeeze(1)[:_ATTACKED]

    @cached_property
    def fallen(self) -> Tensor:
        """The images of the sample that fell in the evaluation, at most 64, (m,)."""
        stood = torch.isin(self.right, self.standing) if self.stood is None else self.stood[self.right]
        return self.right[~stood.to(self.right.device)]

    @cached_property
    def longer(self) -> Attack:
        """A longer gradient attack than most evaluations run: APGD-100 on the margin, from another start."""
        return attacks.APGD(self.threat, steps=100, loss="margin", stop_at_success=True, seed=1)

    @cached_property
    def outlasting(self) -> Tensor:
        """Those of `standing` that the longer attack does not break, (m,)."""
        return self.survivors(self.longer, self.standing)

    @cached_property
    def robust_accuracy(self) -> float:
        """Share of all images that stand after the evaluation."""
        return len(self.standing) / len(self.x) if self.accuracy is None else self.accuracy

    @cached_property
    def noise(self) -> float:
        """How far two passes differ that begin in the same state."""
        return self.distance(self.run(self.x), self.logits)

    @cached_property
    def watched(self) -> "Watch":
        """What the model does within a forward pass, without gradients and with them."""
        watch = Watch()
        few = self.x[:_WATCHED]
        try:
            with torch.no_grad(), watch:
                self.model(few)
            with torch.enable_grad(), watch:
                self.model(few.clone().requires_grad_())
        finally:
            self.state.restore()
        return watch

    @cached_property
    def rounding(self) -> float:
        """How far logits may differ, relative to their size, only because another kernel computed them.

        5e-4 in float32, where deep networks stay below 1e-5, and 16 last bits in lower precision, such as the
        TF32 (10 bits) in which a GPU may convolve float32.
        """
        kinds = self.watched.kinds | {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        last_bit = max(torch.finfo(kind).eps for kind in kinds | {self.x.dtype})
        if self.x.is_cuda:
            last_bit = max(last_bit, 2.0**-10)
        return max(5e-4, 16 * last_bit)

    def distance(self, a: Float[Tensor, "m c"], b: Float[Tensor, "m c"]) -> float:
        """The largest difference of two sets of logits, relative to their size. NaN differs from nothing."""
        size = b.abs().nan_to_num(0.0, 0.0, 0.0).amax(1).median()
        gap = (a - b).abs().nan_to_num(0.0, 0.0, 0.0).max()
        return float(gap / size.clamp_min(torch.finfo(b.dtype).tiny))


class Watch(TorchFunctionMode):
    """Notes what is called inside: whether something differentiates, and in which precisions it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.differentiates = False
        self.kinds: set[torch.dtype] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.differentiates |= func in _DIFFERENTIATE
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point():
            self.kinds.add(output.dtype)
        return output
