"""Diagnostics that checks look at: a model, a sample of images, and passes and attacks over them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens import attacks, losses, models
from robustlens.attacks import Attack
from robustlens.errors import ModelError
from robustlens.reliability.state import ModelState
from robustlens.threat import ThreatModel

_ATTACKED = 64
_ELEMENTS = 1 << 22  # pixels attacked at a time: 64 images of 3x224x224 are cut into three parts
_OBSERVED = 4  # few, since a forward pass that optimises may be long
_COMPARED = 32
_DIFFERENTIATE = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """A model in eval mode, some images, and the outcome of the evaluation so far.

    Attributes:
        model: put back to `state` after every pass and attack.
        x, y: the sample, and its labels.
        threat: what the attacks of the evaluation may do.
        state: the model as it was.
        given_logits: clean logits of all images of the evaluation; None: those of the sample.
        robust: which images of the sample survived the evaluation; None: those that PGD-20 on the margin
            does not break.
        accuracy: share of all images that survived the evaluation; None: as in the sample.
        broken_by: for each attack, in order, how many images it broke first, and whether it uses gradients.
    """

    model: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, " n"]
    threat: ThreatModel
    state: ModelState
    given_logits: Float[Tensor, "all c"] | None = None
    robust: Bool[Tensor, " n"] | None = None
    accuracy: float | None = None
    broken_by: Mapping[str, tuple[int, bool]] = field(default_factory=dict)

    def run(self, x: Float[Tensor, "m ..."]) -> Float[Tensor, "m c"]:
        """Logits of `x`, from the state that the model was in at first."""
        try:
            with torch.no_grad():
                return self.model(x).detach()
        finally:
            self.state.restore()

    def survivors_of(self, attack: Attack, rows: Int64[Tensor, " m"]) -> Int64[Tensor, " k"]:
        """Those of the images `rows` that are still right after the attack."""
        size = max(1, _ELEMENTS // max(1, self.x[0].numel()))
        if len(rows) > size:  # large images: a copy of all of them for each variable of an attack is too much
            return torch.cat([self.survivors_of(attack, part) for part in rows.split(size)])
        if len(rows) == 0:
            return rows
        try:
            x_adv = attack(self.searched, self.x[rows], self.y[rows])
        except ModelError:  # no gradient at all: nothing to follow
            return rows
        finally:
            self.state.restore()
        return rows[~losses.is_wrong(self.run(x_adv), self.y[rows])]

    @cached_property
    def searched(self) -> nn.Module:
        """The copy that attacks search on, as in an evaluation; the model judges what they find."""
        return models.fast_copy(self.model, self.x[:_COMPARED])

    @cached_property
    def takes_single_images(self) -> bool:
        """Whether the model can be run on a single image, as attacks do when all others are broken."""
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
    def survivors(self) -> Tensor:
        """The images of the sample that survived the evaluation, at most 64, (m,)."""
        if self.robust is None:
            return self.survivors_of(attacks.get("cw-20", self.threat), self.right)
        right = ~losses.is_wrong(self.logits, self.y)
        return torch.nonzero(right & self.robust.to(right.device)).squeeze(1)[:_ATTACKED]

    @cached_property
    def broken(self) -> Tensor:
        """The images of the sample that the evaluation broke, at most 64, (m,)."""
        robust = torch.isin(self.right, self.survivors) if self.robust is None else self.robust[self.right]
        return self.right[~robust.to(self.right.device)]

    @cached_property
    def long_attack(self) -> Attack:
        """A longer gradient attack than most evaluations run: APGD-100 on the margin, from another start."""
        return attacks.APGD(self.threat, steps=100, loss="margin", stop_at_success=True, seed=1)

    @cached_property
    def long_survivors(self) -> Tensor:
        """Those of `survivors` that the long attack does not break either, (m,)."""
        return self.survivors_of(self.long_attack, self.survivors)

    @cached_property
    def robust_accuracy(self) -> float:
        """Share of all images that survived the evaluation."""
        return len(self.survivors) / len(self.x) if self.accuracy is None else self.accuracy

    @cached_property
    def noise(self) -> float:
        """Relative difference of two passes that begin in the same state."""
        return self.distance(self.run(self.x), self.logits)

    @cached_property
    def calls(self) -> "CallRecorder":
        """Calls of torch within a forward pass, without gradients and with them."""
        recorder = CallRecorder()
        few = self.x[:_OBSERVED]
        try:
            with torch.no_grad(), recorder:
                self.model(few)
            with torch.enable_grad(), recorder:
                self.model(few.clone().requires_grad_())
        finally:
            self.state.restore()
        return recorder

    @cached_property
    def rounding(self) -> float:
        """Largest difference of logits, relative to their size, that another kernel alone explains.

        5e-4 in float32, where deep networks stay below 1e-5, and 16 last bits in lower precision.
        """
        precisions = self.calls.precisions | {
            p.dtype for p in self.model.parameters() if p.is_floating_point()
        }
        last_bit = max(torch.finfo(precision).eps for precision in precisions | {self.x.dtype})
        return max(5e-4, 16 * last_bit)

    def distance(self, a: Float[Tensor, "m c"], b: Float[Tensor, "m c"]) -> float:
        """The largest difference of two sets of logits, relative to their size. NaN differs from nothing."""
        size = b.abs().nan_to_num(0.0, 0.0, 0.0).amax(1).median()
        gap = (a - b).abs().nan_to_num(0.0, 0.0, 0.0).max()
        return float(gap / size.clamp_min(torch.finfo(b.dtype).tiny))


class CallRecorder(TorchFunctionMode):
    """Record of the calls inside: whether one differentiates, and the precisions that they compute in."""

    def __init__(self) -> None:
        super().__init__()
        self.differentiates = False
        self.precisions: set[torch.dtype] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.differentiates |= func in _DIFFERENTIATE
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point():
            self.precisions.add(output.dtype)
        return output
