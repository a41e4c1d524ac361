"""A comparison as rows of text, for the terminal and the page."""

from collections.abc import Callable
from dataclasses import dataclass

from robustlens.report.comparison.documents import Comparison, ImageComparison, QuantityChange
from robustlens.report.text.wording import minus, number, p_value, points
from robustlens.stats.intervals import Interval

CALLED_ZERO = "the interval holds zero"


@dataclass(frozen=True)
class TextRow:
    """One number of both in words: a, b, their difference with its interval, p-value and counts."""

    quantity: str
    a: str
    b: str
    difference: str
    p: str
    counts: tuple[str, ...] = ()


COUNTS = ("both", "only A", "only B", "neither")
"""Columns of the images that both networks have right, only one, or neither."""


def rows(changes: tuple[QuantityChange, ...]) -> list[TextRow]:
    """Each change as text: shares in percent and points, other numbers as they are."""
    return [_row(change) for change in changes]


def heading(part: ImageComparison) -> str:
    """Title of the numbers on one set of images."""
    of = (
        f"{part.shared:,} {part.images} images, paired"
        if part.paired
        else f"{part.images} images, not paired"
    )
    return f"On {of}"


def sentences(comparison: Comparison) -> list[str]:
    """The differences on test images that are told apart from zero, in words."""
    part = next((part for part in comparison.accuracy if part.images == "test"), None)
    told = []
    for change in part.changes if part else ():
        low, high = change.difference.low, change.difference.high
        if low is None or high is None:
            continue
        value = f"{_text(change.unit)(abs(change.difference.value))} {_difference_unit(change.unit)}".rstrip()
        if low <= 0 <= high:
            told.append(f"The {change.quantity} is not told apart: {CALLED_ZERO}.")
        else:
            way = "higher" if change.difference.value > 0 else "lower"
            told.append(
                f"The {change.quantity} of {comparison.b.name} is {value} {way} than that of "
                f"{comparison.a.name}."
            )
    return told


def _row(change: QuantityChange) -> TextRow:
    text = _text(change.unit)
    counts = change.counts
    unit = "%" if change.unit == "share" else change.unit
    return TextRow(
        f"{change.quantity}, {unit}" if unit else change.quantity,
        _with_ends(change.a, text),
        _with_ends(change.b, text),
        _with_ends(change.difference, text, signed=True),
        "" if change.difference.p is None else p_value(change.difference.p).removeprefix("p "),
        tuple(f"{count:,}" for count in (counts.both, counts.only_a, counts.only_b, counts.neither))
        if counts
        else (),
    )


def _with_ends(interval: Interval, text: Callable[[float], str], *, signed: bool = False) -> str:
    def shown(value: float) -> str:
        return f"+{text(value)}" if signed and value > 0 and text(value) != text(0.0) else text(value)

    if interval.low is None or interval.high is None:
        return shown(interval.value)
    return f"{shown(interval.value)} ({shown(interval.low)} to {shown(interval.high)})"


def _text(unit: str) -> Callable[[float], str]:
    if unit == "share":
        return lambda value: minus(points(value))
    if unit == "nats":
        return lambda value: minus(f"{value:.3f}")
    return number


def _difference_unit(unit: str) -> str:
    return "points" if unit == "share" else unit
