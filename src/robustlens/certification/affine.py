"""Operations that are affine in the activations: y = W x + b."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from robustlens.certification.bounds import Bounds, rounding, slack

Map = Callable[[list[Tensor]], Tensor]
"""A linear map of some tensors to one."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = W x + b, where x may be several tensors.

    Attributes:
        sources: numbers of the tensors that x is.
        linear: W x. absolute: |W| x.
        transpose: from rows a (m, ...) of an outer matrix -> a W, one tensor for each source.
        offset: b, (1, ...) or one number, or None.
        terms: products that any sum in W x or a W has at most.
    """

    sources: tuple[int, ...]
    linear: Map
    absolute: Map
    transpose: Callable[[Tensor], list[Tensor]]
    offset: Tensor | float | None = None
    terms: int = 1

    is_affine = True

    def value(self, inputs: Sequence[Tensor]) -> Tensor:
        """W x + b."""
        product = self.linear(list(inputs))
        return product if self.offset is None else product + self.offset

    def interval(self, inputs: Sequence[Bounds], *, outward: bool = True) -> Bounds:
        """Bounds of y from those of x: the middle moves by W, the half-widths by |W|.

        `outward` adds what rounding may have taken away; the inputs are float64 then.
        """
        middle = self.value([(each.lower + each.upper) / 2 for each in inputs])
        spread = self.absolute([(each.upper - each.lower) / 2 for each in inputs])
        if outward:
            spread = spread + rounding(self.terms) * self.magnitude(inputs)
        return Bounds(middle - spread, middle + spread)

    def magnitude(self, inputs: Sequence[Bounds]) -> Tensor:
        """|W| |x| + |b|, the sum of absolute values to which rounding is relative."""
        total = self.absolute([each.magnitude for each in inputs])
        if self.offset is None:
            return total
        return total + (self.offset.abs() if isinstance(self.offset, Tensor) else abs(self.offset))

    def back(self, rows: Tensor, inputs: Sequence[Bounds]) -> tuple[list[Tensor], Tensor]:
        """Rows a W of rows a (n, s, ...), and a b less what rounding may add to both, (n, s)."""
        n, s = rows.shape[:2]
        new = [each.view(n, s, *each.shape[1:]) for each in self.transpose(rows.flatten(0, 1))]
        lost = slack(rows, self.magnitude(inputs), self.terms)
        if self.offset is None:
            return new, -lost
        return new, (rows * self.offset).flatten(2).sum(2) - lost
