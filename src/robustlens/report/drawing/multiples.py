"""Small multiples of the first screen: places of marks, lines and texts in a drawing of 320 by 100 units.

The page draws them as SVG of its own, without a library, so that they are there at once and in print.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from robustlens.config import eps_text
from robustlens.report.data import Network
from robustlens.stats.intervals import Interval

LEFT, RIGHT, TOP, BASE = 30.0, 290.0, 18.0, 80.0
STEP = 15.0
"""Distance of two marks at one strength, where there is room."""
WIDTH, HEIGHT = 46.0, 12.0
"""Room that a written value takes."""
Rows = Sequence[tuple[Network, Sequence[Interval | None]]]
"""A network, and each quantity that is drawn of it."""
Writer = Callable[[float], str]


@dataclass(frozen=True)
class Mark:
    """One network's value. `text` is what a pointer shows; `hollow` marks the first of two quantities."""

    network: Network
    x: float
    y: float
    low: float | None
    high: float | None
    text: str
    hollow: bool


@dataclass(frozen=True)
class Label:
    """A value that is written out beside its mark."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Thread:
    """A faint line through the strengths of one method, in the colours of `network`."""

    network: Network
    points: str


@dataclass(frozen=True)
class SmallMultiple:
    """One small drawing. `ticks`: (x, text) of the strengths; `zero`: height of the line at zero."""

    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    threads: tuple[Thread, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float


def small_multiple(rows: Rows, write: Writer, emphasised: frozenset[str]) -> SmallMultiple:
    """The drawing of one or two quantities against strength, standard on the left, strongest on the right.

    Strengths are equally far apart, networks of one strength side by side; values start at zero.
    """
    strengths = sorted({network.eps for network, _ in rows})
    places = _places([network for network, _ in rows], strengths)
    height = _heights([interval for _, intervals in rows for interval in intervals if interval])
    count = max(len(intervals) for _, intervals in rows)
    marks: list[Mark] = []
    labels: list[Label] = []
    threads: list[Thread] = []
    for which in range(count):
        values = [(network, one) for network, intervals in rows if (one := intervals[which])]
        own = [
            _mark(network, places[network.label], one, height, write, which + 1 < count)
            for network, one in values
        ]
        threads += _threads(own)
        texts = [write(one.value) for _, one in values]
        labels += _apart(list(_labels(own, texts, emphasised, below=which > 0)))
        marks += own
    ticks = tuple((_strength_x(eps, strengths), eps_text(eps)) for eps in strengths)
    return SmallMultiple(tuple(marks), tuple(labels), tuple(threads), ticks, height(0.0))


def _strength_x(eps: float, strengths: Sequence[float]) -> float:
    if len(strengths) < 2:
        return (LEFT + RIGHT) / 2
    return LEFT + (RIGHT - LEFT) * strengths.index(eps) / (len(strengths) - 1)


def _places(networks: Sequence[Network], strengths: Sequence[float]) -> dict[str, float]:
    """Place of each network; those of one strength stand side by side, inside the frame."""
    room = (RIGHT - LEFT) / max(1, len(strengths) - 1)
    places: dict[str, float] = {}
    for eps in strengths:
        own = [network.label for network in networks if network.eps == eps]
        step = min(STEP if len(strengths) > 1 else 3 * STEP, 0.8 * room / len(own))
        first = _strength_x(eps, strengths) - step * (len(own) - 1) / 2
        inside = min(first, RIGHT + 18 - step * (len(own) - 1))
        places |= {label: inside + step * place for place, label in enumerate(own)}
    return places


def _heights(intervals: Sequence[Interval]) -> Callable[[float], float]:
    """Height of a value, on one scale that holds zero and all values with their intervals."""
    ends = [end for one in intervals for end in (one.value, one.low, one.high) if end is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    return lambda value: BASE - (BASE - TOP) * (value - low) / ((high - low) or 1.0)


def _mark(
    network: Network, x: float, one: Interval, height: Callable[[float], float], write: Writer, hollow: bool
) -> Mark:
    ends = [None if end is None else height(end) for end in (one.low, one.high)]
    between = "" if one.low is None or one.high is None else f" ({write(one.low)} to {write(one.high)})"
    return Mark(
        network,
        x,
        height(one.value),
        ends[0],
        ends[1],
        f"{network.label}: {write(one.value)}{between}",
        hollow,
    )


def _labels(
    marks: Sequence[Mark], texts: Sequence[str], emphasised: frozenset[str], *, below: bool
) -> Iterator[Label]:
    """Values of the emphasised marks, clear of the marks beside them: above, or below where there is room."""
    for mark, text in zip(marks, texts, strict=True):
        if mark.network.label in emphasised:
            near = [other.y for other in marks if abs(other.x - mark.x) < 34]
            under = max(near) + 17
            yield Label(mark.x, under if below and under < BASE - 2 else min(near) - 8, text)


def _apart(labels: Sequence[Label]) -> list[Label]:
    """Labels in their order along the strengths, moved sideways where one would lie on the next."""
    placed: list[Label] = []
    for label in sorted(labels, key=lambda label: label.x):
        before = placed[-1] if placed else None
        lack = WIDTH - (label.x - before.x) if before and abs(label.y - before.y) < HEIGHT else 0.0
        if before and lack > 0:
            placed[-1], label = replace(before, x=before.x - lack / 2), replace(label, x=label.x + lack / 2)
        placed.append(label)
    return placed


def _threads(marks: Sequence[Mark]) -> Iterator[Thread]:
    """Lines through the methods with several strengths, from the standard network where there is one."""
    standard = [mark for mark in marks if mark.network.eps == 0]
    for method in dict.fromkeys(mark.network.method for mark in marks if mark.network.eps > 0):
        own = sorted(
            (mark for mark in marks if mark.network.method == method), key=lambda mark: mark.network.eps
        )
        if len({mark.network.eps for mark in own}) == len(own) > 1:
            start = standard if len(standard) == 1 else []
            points = " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in (*start, *own))
            yield Thread(own[-1].network, points)
