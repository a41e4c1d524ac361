"""How the output of a function responds to its input, and whether its gradient says so."""

import math
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from robustlens import noise
from robustlens.errors import StoppedError

STEP = 1e-3
"""Length of the short step that a gradient is compared over, in standard deviations of the input."""
LONG_STEPS = (0.03, 0.1, 0.3)
"""Lengths of the steps over which a gradient that fails over short ones may still hold."""
APART = 0.1
"""Offset of the points where it is compared from the observed ones, in the same unit: off ties and grids."""
DISAGREEMENT = 0.1
"""Share of the response to short steps that a gradient may miss; kinks miss about STEP / APART."""
LONG_DISAGREEMENT = 0.3
"""Share of the response to long steps that it may miss: there the network's curvature counts as well."""
_ELEMENTS, _MOST_DRAWS = 100_000, 64
_FEW_DRAWS = 8  # at least, where a draw gives one response instead of one for each row
_AT_ONCE = 16  # draws in one batch, where rows are alone

Function = Callable[[Tensor], Tensor]


def useless_gradient(function: Function, x: Tensor) -> str | None:
    """The way in which autograd's gradient of a function is useless, or None where it is sound.

    The function is asked at points near `x`, and a short step further. Its response along random weights of
    the output, at each point or, where an output depends on several rows, at all of them together, is
    compared with the gradient's prediction. Where the output is continuous the two agree but for kinks, which
    matter less the shorter the step; where it jumps they do not, however short the step is: as many fewer
    points meet a jump as the response is smaller. A gradient that says how the output moves over longer steps
    all the same, as a straight-through one does, is sound.

    Returns:
        "random": the output is another one at the same input. "missing": autograd gives no gradient, though
        the output changes. "zero": the gradient is zero everywhere, though the output changes.
        "inconsistent": the gradient misses a tenth of the response to short steps, and three tenths of
        that to longer ones, of every length. None also where nothing can be
        said: the output is no tensor, in half precision, or never changes.
    """
    first = _seeded(function, x, 0)
    if not isinstance(first, Tensor) or x.dtype not in (torch.float32, torch.float64) or not len(x):
        return None
    if not _same(first, _seeded(function, x, 1)) or not _same(first, _seeded(function, x, 0)):
        return "random"
    unit = spread(x)
    generator = torch.Generator().manual_seed(0)
    if not _gives_gradient(function, x):
        return "missing" if _changes(function, x, first, unit, generator) else None
    if first.dtype not in (torch.float32, torch.float64):
        return None
    draws = min(_MOST_DRAWS, math.ceil(_ELEMENTS / max(1, x.numel())))
    alone = _takes_rows_alone(function, x, first, unit, min(draws, _AT_ONCE))
    least = 1 if alone else _FEW_DRAWS
    draws = max(draws, least)
    missed, largest = _missed(function, x, first, unit, STEP, draws, alone=alone)
    if largest == 0:
        changes = missed > 0 or _changes(function, x, first, unit, generator)
        return "zero" if changes else None
    if missed <= DISAGREEMENT:
        return None
    few = max(draws // 8, least)
    shares = (_missed(function, x, first, unit, step, few, alone=alone)[0] for step in LONG_STEPS)
    return None if any(share <= LONG_DISAGREEMENT for share in shares) else "inconsistent"


def spread(x: Tensor) -> float:
    """Standard deviation of the values of `x`, or 1 where they are all the same."""
    value = float(x.double().std()) if x.numel() > 1 else 0.0
    return value if math.isfinite(value) and value > 0 else 1.0


def _takes_rows_alone(function: Function, x: Tensor, output: Tensor, unit: float, draws: int) -> bool:
    """Whether each row of the output is that of a row of `x`, in a batch of so many draws as well.

    Then they are asked at once: a small layer costs hardly more for all of them. The rows stand one place
    further here than in `x`, so that a function of groups of rows does not see the same groups.
    """
    rows = torch.cat([x] * max(1, draws - 1))
    beside = rows + APART * unit * _normal(rows, torch.Generator().manual_seed(2))
    try:
        crowd = _seeded(function, torch.cat([beside[:1], x, beside[1:]]), 0)
    except StoppedError:
        raise
    except Exception:  # whatever a layer raises that takes batches of one size alone
        return False
    is_row_by_row = output.ndim > 0 and crowd.shape == (len(rows) + len(x), *output.shape[1:])
    if not is_row_by_row or len(output) != len(x) or output.numel() == 0:
        return False
    moved, wanted = crowd[1 : 1 + len(x)].detach(), output.detach()
    rounding = 1e-5 * float(wanted.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(moved, wanted, rtol=0.0, atol=rounding, equal_nan=True)


def _missed(
    function: Function, x: Tensor, output: Tensor, unit: float, length: float, draws: int, *, alone: bool
) -> tuple[float, float]:
    """Share of the response to steps of this length that the gradient misses, and the largest gradient.

    Of each row, for so many draws of a point near it, many asked at once, where rows are `alone`; else of all
    rows together, draw by draw.
    """
    generator = torch.Generator().manual_seed(1)
    missed = response = largest = 0.0
    drawn = (
        (
            x + APART * unit * _normal(x, generator),
            length * unit * _normal(x, generator),
            _normal(output, generator),
        )
        for _ in range(draws)
    )
    while few := list(islice(drawn, _AT_ONCE if alone else 1)):
        start, step, weights = map(torch.cat, zip(*few, strict=True))
        actual, predicted, size = _compared(function, start, step, weights, alone=alone)
        valid = actual.isfinite() & predicted.isfinite()
        missed += float((actual - predicted)[valid].abs().sum())
        response += float(actual[valid].abs().sum())
        largest = max(largest, size)
    return missed / response if response > 0 else 0.0, largest


def _compared(
    function: Function, start: Tensor, step: Tensor, weights: Tensor, *, alone: bool
) -> tuple[Tensor, Tensor, float]:
    """Weighted response to the step, what the gradient predicts, and the largest gradient.

    The response is that of each row where rows are `alone`, else that of all together.
    """
    with torch.enable_grad():
        leaf = start.clone().requires_grad_()
        output = _seeded(function, leaf, 0)
        (gradient,) = torch.autograd.grad((output * weights).sum(), leaf, allow_unused=True)
    after = _seeded(function, start + step, 0)
    gradient = torch.zeros_like(start) if gradient is None else gradient
    rows = len(start) if alone else 1
    actual, predicted = (
        product.double().reshape(rows, -1).sum(1)
        for product in ((after - output).detach() * weights, gradient * step)
    )
    return actual, predicted, float(gradient.abs().nan_to_num(0.0).max())


def _gives_gradient(function: Function, x: Tensor) -> bool:
    with torch.enable_grad():
        output = _seeded(function, x.clone().requires_grad_(), 0)
    return output.requires_grad


def _changes(function: Function, x: Tensor, output: Tensor, unit: float, generator: torch.Generator) -> bool:
    """Whether the output differs after a large step, of one standard deviation."""
    return not _same(output, _seeded(function, x + unit * _normal(x, generator), 0))


def _seeded(function: Function, x: Tensor, seed: int) -> Tensor:
    """The output by the random numbers of `seed`, at a copy of `x`, which the function may write to."""
    with noise.torch_seeded(seed, x.device):
        return function(x.clone())


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    kind = like.dtype if like.is_floating_point() else torch.float32
    return torch.randn(like.shape, generator=generator, dtype=kind).to(like.device)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
