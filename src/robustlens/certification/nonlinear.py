"""Rules of the operations that are not affine: two lines bound each over the interval of its input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlens.certification import arguments
from robustlens.certification.bounds import Bounds, slack
from robustlens.certification.graph import Operation


@dataclass(frozen=True, eq=False)
class Rectifier:
    """ReLU, and with `slope` above 0 its leaky variant.

    Over an interval [l, u] around 0 it lies under the chord, and above a line through 0, of slope 1 where
    u > -l and `slope` elsewhere, which has the smaller area of the two (Zhang et al. 2018, section 3.3,
    "adaptive" lower bounds).
    """

    sources: tuple[int, ...]
    slope: float = 0.0

    is_affine = False
    terms = 4

    def value(self, inputs: Sequence[Tensor]) -> Tensor:
        """The rectified activations."""
        return torch.nn.functional.leaky_relu(inputs[0], self.slope) if self.slope else inputs[0].relu()

    def interval(self, inputs: Sequence[Bounds], *, outward: bool = True) -> Bounds:
        """Its values at the ends; it is monotone, and 0, 1 and `slope` times a number is rounded alike."""
        return Bounds(self.value([inputs[0].lower]), self.value([inputs[0].upper]))

    def undecided(self, bounds: Bounds) -> Tensor:
        """Mask of the inputs that may have either sign."""
        return (bounds.lower < 0) & (bounds.upper > 0)

    def back(self, rows: Tensor, inputs: Sequence[Bounds]) -> tuple[list[Tensor], Tensor]:
        """Rows a (n, s, ...) through the lower line where a is positive, the chord where it is negative."""
        low, high = inputs[0]
        crosses = self.undecided(inputs[0])
        one, slope = low.new_ones(()), low.new_full((), self.slope)  # two Python numbers would be float32
        side = torch.where(low >= 0, one, slope)
        chord = (high - self.slope * low) / (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        upper = torch.where(crosses, chord, side)[:, None]
        lower = torch.where(crosses, torch.where(high > -low, one, slope), side)[:, None]
        height = torch.where(crosses, high - chord * high, 0.0)
        positive, negative = rows.clamp_min(0), rows.clamp_max(0)
        constant = (negative.flatten(2) @ height.flatten(1)[:, :, None]).squeeze(2)
        lost = slack(rows, 4 * inputs[0].magnitude, self.terms)
        return [positive * lower + negative * upper], constant - lost


@dataclass(frozen=True, eq=False)
class Maximum:
    """Max-pooling over windows of the last two dimensions.

    From below by the input whose lower bound is the largest, from above by the chord of max(x_j, m), where j
    has the largest upper bound and m is the largest upper bound of the others; where x_j is certainly the
    largest, both are x_j itself.

    Args:
        window: (positions, places) flat places in an image's channel that each position looks at.
        inside: mask of the places that are not padding. shapes: of a channel before and after.
    """

    sources: tuple[int, ...]
    window: Tensor
    inside: Tensor
    before: tuple[int, int]
    after: tuple[int, int]

    is_affine = False
    terms = 4

    def value(self, inputs: Sequence[Tensor]) -> Tensor:
        """The largest value of each window."""
        return self._windows(inputs[0]).amax(-1).unflatten(-1, self.after)

    def interval(self, inputs: Sequence[Bounds], *, outward: bool = True) -> Bounds:
        """Maxima of the ends."""
        return Bounds(self.value([inputs[0].lower]), self.value([inputs[0].upper]))

    def back(self, rows: Tensor, inputs: Sequence[Bounds]) -> tuple[list[Tensor], Tensor]:
        """Rows a (n, s, ..., p, q) to the inputs that bound each maximum."""
        low, high = (self._windows(each) for each in inputs[0])
        place = low.argmax(-1)
        top, best = high.max(-1)
        others = high.scatter(-1, best[..., None], -math.inf).amax(-1)
        start = low.gather(-1, best[..., None]).squeeze(-1)
        decided = start >= others
        others = torch.where(decided, start, others)
        width = top - start
        chord = torch.where(width > 0, (top - others) / width.clamp_min(torch.finfo(low.dtype).tiny), 0.0)
        chord = torch.where(decided, 1.0, chord)
        place = torch.where(decided, best, place)
        height = torch.where(decided, 0.0, top - chord * top)
        flat = rows.flatten(-2)
        positive, negative = flat.clamp_min(0), flat.clamp_max(0)
        constant = (negative.flatten(2) @ height.flatten(1)[:, :, None]).squeeze(2)
        new = rows.new_zeros(*rows.shape[:-2], math.prod(self.before))
        for part, at in ((positive, place), (negative * chord[:, None], best)):
            target = self.window.expand(*at.shape, -1).gather(-1, at[..., None]).squeeze(-1)
            new.scatter_add_(-1, target[:, None].expand_as(part), part)
        largest = self._windows(inputs[0].magnitude, 0.0).amax(-1)
        lost = slack(flat, 4 * largest, self.terms + self.window.shape[1] * 2)
        return [new.unflatten(-1, self.before)], constant - lost

    def _windows(self, values: Tensor, padding: float = -math.inf) -> Tensor:
        """(..., positions, places): the inputs that each position looks at."""
        window, inside = self.window.to(values.device), self.inside.to(values.device)
        return torch.where(inside, values.flatten(-2)[..., window], padding)


def relu(operation: Operation, constants: arguments.Constants) -> Rectifier:
    """ReLU."""
    return Rectifier((arguments.data(operation.args[0], constants),))


def leaky_relu(operation: Operation, constants: arguments.Constants) -> Rectifier:
    """Leaky ReLU with a slope in [0, 1]."""
    slope = float(operation.args[1]) if len(operation.args) > 1 else 0.01
    if not 0 <= slope <= 1:
        raise arguments.NoRuleError(f"has slope {slope:g}, expected one in [0, 1]")
    return Rectifier((arguments.data(operation.args[0], constants),), slope)


def max_pool(operation: Operation, constants: arguments.Constants) -> Maximum:
    """Max-pooling of images, with any stride, padding, dilation and rounding of sizes."""
    kernel = _pair(operation, 1, (1, 1))
    stride, padding = _pair(operation, 2, kernel), _pair(operation, 3, (0, 0))
    dilation = _pair(operation, 4, (1, 1))
    before, after = arguments.input_shape(operation)[-2:], operation.shape[-2:]
    sides = []
    for side in (0, 1):
        starts = torch.arange(after[side]) * stride[side] - padding[side]
        sides.append(starts[:, None] + torch.arange(kernel[side]) * dilation[side])
    rows, columns = (each.clamp(0, size - 1) for each, size in zip(sides, before, strict=True))
    inside = [(each >= 0) & (each < size) for each, size in zip(sides, before, strict=True)]
    window = rows[:, None, :, None] * before[1] + columns[None, :, None, :]
    mask = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    places = (after[0] * after[1], kernel[0] * kernel[1])
    source = arguments.data(operation.args[0], constants)
    sizes = ((before[0], before[1]), (after[0], after[1]))
    return Maximum((source,), window.reshape(places), mask.reshape(places), *sizes)


def _pair(operation: Operation, place: int, default: tuple[int, int]) -> tuple[int, int]:
    """An option for both sides, given for both or once, or not at all."""
    value = operation.args[place] if place < len(operation.args) else ()
    return (value[0], value[-1]) if value else default
