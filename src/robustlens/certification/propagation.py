"""Bounds of the logits' margins: intervals forward, linear bounds backward."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from robustlens.certification.ball import DUAL, Ball
from robustlens.certification.bounds import Bounds, rounding, smallest
from robustlens.certification.graph import Graph
from robustlens.certification.operations import Rule

Means = Literal["interval", "linear"]
_MEMORY = 2**27
"""Bytes that the rows of one backward pass take, about."""


@dataclass(eq=False)
class Propagation:
    """Bounds of every tensor of a network over the images of some balls.

    Args:
        graph: of the network. rules: of its operations.
        ball: the images. growth: by `row_norms`, for L2 and L1.
        intermediate: whether the inputs of ReLUs are bounded by intervals alone, or by backward linear bounds
            where the interval does not decide their sign.
    """

    graph: Graph
    rules: Mapping[int, Rule]
    ball: Ball
    growth: Mapping[int, Tensor] = field(default_factory=dict)
    intermediate: Means = "interval"

    def __post_init__(self) -> None:
        self.bounds: dict[int, Bounds] = {self.graph.input: self.ball.box}
        centre = Bounds(self.ball.x, self.ball.x)
        self._at_x = {self.graph.input: centre}
        for place, operation in enumerate(self.graph.operations):
            rule = self.rules[operation.number]
            if not rule.is_affine:
                self._tighten(place, rule)
            self.bounds[operation.number] = rule.interval(self._inputs(rule))
            if rule.is_affine and self.growth and all(each in self._at_x for each in rule.sources):
                self._at_x[operation.number] = rule.interval([self._at_x[each] for each in rule.sources])

    def margins(self, y: Int64[Tensor, " n"], method: Means = "linear") -> Float[Tensor, "n c"]:
        """Lower bounds of f_y - f_i for every class i, infinite for y itself.

        The differences are one more layer, merged with the affine ones that end the network. With the method
        "interval" they are bounded by the intervals of the last nonlinear operation's results, with "linear"
        through all operations as far as the pixels; the better of both counts then.
        """
        classes = self.bounds[self.graph.output].lower.shape[1]
        unit = torch.eye(classes, dtype=torch.float64, device=y.device)
        rows = unit[y][:, None] - unit
        last = len(self.graph.operations)
        lower = self._backward(rows, self.graph.output, last, through=lambda rule: rule.is_affine, exact=True)
        if method == "linear":
            lower = lower.maximum(
                self._backward(rows, self.graph.output, last, through=lambda rule: True, exact=True)
            )
        return lower.nan_to_num(-math.inf).scatter(1, y[:, None], math.inf)

    def _inputs(self, rule: Rule) -> list[Bounds]:
        return [self.bounds[number] for number in rule.sources]

    def _tighten(self, place: int, rule: Rule) -> None:
        """Better bounds of what a nonlinear operation reads, where they would make a difference."""
        source = rule.sources[0]
        if source in self.growth and source in self._at_x:
            at_x, box = self._at_x[source], self.bounds[source]
            reach = self.growth[source] * self.ball.eps.view(-1, *[1] * (box.lower.ndim - 1))
            terms = sum(each.terms for each in self.rules.values())
            reach = reach + rounding(terms) * (box.upper - box.lower)
            self.bounds[source] = box.within(Bounds(at_x.lower - reach, at_x.upper + reach))
        undecided = getattr(rule, "undecided", None)
        if undecided is None or self.intermediate == "interval" or self._is_exact(source):
            return
        self.bounds[source] = self._linear_bounds(source, place, undecided(self.bounds[source]))

    def _linear_bounds(self, number: int, place: int, where: Tensor) -> Bounds:
        """Bounds of a tensor, those entries that `where` marks improved by a backward pass each."""
        lower, upper = (each.flatten(1).clone() for each in self.bounds[number])
        flat = where.flatten(1)
        most = int(flat.sum(1).max())
        if most == 0:
            return self.bounds[number]
        # Each image's marked entries first; images with fewer of them repeat others, which does no harm.
        columns = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        for part in columns.split(self._rows_at_once(), dim=1):
            rows = torch.zeros(
                len(flat), part.shape[1], flat.shape[1], dtype=lower.dtype, device=lower.device
            )
            rows.scatter_(2, part[:, :, None], 1.0)
            rows = rows.view(*rows.shape[:2], *where.shape[1:])
            for sign, ends in ((1.0, lower), (-1.0, upper)):
                bound = sign * self._backward(sign * rows, number, place, through=lambda rule: True)
                old = ends.gather(1, part)
                better = old.maximum(bound) if sign > 0 else old.minimum(bound)
                ends.scatter_(1, part, torch.where(bound.isnan(), old, better))
        return Bounds(lower.view_as(where), upper.view_as(where))

    def _backward(
        self,
        rows: Float[Tensor, "n s ..."],
        number: int,
        place: int,
        *,
        through: Callable[[Rule], bool],
        exact: bool = False,
    ) -> Float[Tensor, "n s"]:
        """Lower bounds of rows times the tensor `number`, which the operations before `place` have made.

        Operations that `through` holds for are replaced by their linear bounds, from the last to the first;
        where one is not, the interval of its result counts.
        """
        pending = {number: rows}
        total = rows.new_zeros(rows.shape[:2])
        for operation in reversed(self.graph.operations[:place]):
            here = pending.pop(operation.number, None)
            if here is None:
                continue
            rule = self.rules[operation.number]
            if not through(rule):
                total = total + smallest(here, self.bounds[operation.number])
                continue
            before, constant = rule.back(here, self._inputs(rule))
            total = total + constant
            for source, new in zip(rule.sources, before, strict=True):
                pending[source] = pending[source] + new if source in pending else new
        if self.graph.input in pending:
            total = total + self.ball.smallest(pending[self.graph.input], exact=exact)
        return total

    def _rows_at_once(self) -> int:
        largest = max(math.prod(operation.shape[1:]) for operation in self.graph.operations)
        return max(1, _MEMORY // (8 * len(self.ball.x) * largest))

    def _is_exact(self, number: int) -> bool:
        """Whether an interval cannot be improved: at most one sum over pixels lies between it and a box."""
        return self.ball.threat.norm == "Linf" and _sums_before(self.graph, self.rules, number) <= 1


def row_norms(graph: Graph, rules: Mapping[int, Rule], like: Tensor, norm: str) -> dict[int, Tensor]:
    """How fast each input of a nonlinear operation grows, of those that are affine in the pixels.

    The dual norms of the rows of their matrices, (1, ...), by number; one pass for all images. An interval
    would take the box around the ball, which in L2 and L1 is far larger.
    """
    shape = {operation.number: operation.shape[1:] for operation in graph.operations}
    affine, wanted = {graph.input}, []
    for operation in graph.operations:
        rule = rules[operation.number]
        if rule.is_affine and affine.issuperset(rule.sources):
            affine.add(operation.number)
        elif not rule.is_affine and rule.sources[0] in affine - {graph.input}:
            wanted.append(rule.sources[0])
    return {
        number: torch.cat(
            [
                torch.linalg.vector_norm(rows.flatten(1), DUAL[norm], dim=1)
                for rows in _matrix(graph, rules, number, shape[number], like)
            ]
        ).view(1, *shape[number])
        for number in dict.fromkeys(wanted)
    }


def _matrix(
    graph: Graph, rules: Mapping[int, Rule], number: int, shape: tuple[int, ...], like: Tensor
) -> Iterator[Tensor]:
    """Rows of the matrix of an affine part of the graph, some at a time."""
    largest = max(math.prod(shape), math.prod(graph.shape))
    for places in torch.arange(math.prod(shape)).split(max(1, _MEMORY // (8 * largest))):
        rows = like.new_zeros(len(places), math.prod(shape))
        rows[torch.arange(len(places)), places] = 1.0
        pending = {number: rows.view(-1, *shape)}
        for operation in reversed(graph.operations):
            here = pending.pop(operation.number, None)
            if here is None:
                continue
            rule = rules[operation.number]
            for source, new in zip(rule.sources, rule.transpose(here), strict=True):  # type: ignore[union-attr]
                pending[source] = pending[source] + new if source in pending else new
        yield pending[graph.input]


def _sums_before(graph: Graph, rules: Mapping[int, Rule], number: int) -> float:
    """Operations that add several entries up, on the way from the pixels; infinite behind a nonlinear one."""
    count: dict[int, float] = {graph.input: 0.0}
    for operation in graph.operations:
        rule = rules[operation.number]
        sums = 0.0 if getattr(rule, "terms", 1) == 1 else 1.0
        own = sums if rule.is_affine else math.inf
        count[operation.number] = own + sum(count[source] for source in rule.sources)
    return count[number]
