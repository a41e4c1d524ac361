"""What each attack did to each network: the images it was given, those it broke, what stood, its time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import mean
from typing import Any, Literal

from robustlens.report.data import Network, ReportData, RunReport, as_interval, combined, dig
from robustlens.report.text.flags import SPLITS, flags_of
from robustlens.report.text.wording import attack_name, suite_name
from robustlens.stats.intervals import Interval

SEARCH = "min-norm"
"""The search behind a curve of radii: it also runs on images that have fallen, to measure distances."""


@dataclass(frozen=True)
class Line:
    """One attack, or a suite and the sum of its attacks. Over several seeds, everything is a mean.

    Attributes:
        kind: "clean" is the start, in which broken are the images that are wrong without an attack.
        name: of the attack or the suite.
        images: how many it was given.
        broken: how many of them fell to it.
        before: share of all images that were right before it.
        right: share of all images that are right after it and all before it.
        seconds: None in files that do not tell.
    """

    kind: Literal["clean", "attack", "suite", "member"]
    name: str
    images: float
    broken: float
    before: float
    right: Interval
    seconds: float | None = None

    @property
    def title(self) -> str:
        """The name as the page writes it."""
        if self.kind == "clean":
            return "Clean"
        return suite_name(self.name) if self.kind == "suite" else attack_name(self.name)


@dataclass(frozen=True)
class Block:
    """One network on one split. `flags` are what was seen, by name."""

    group: Network
    lines: tuple[Line, ...]
    flags: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Attacked:
    """All networks on one split."""

    images: str
    blocks: tuple[Block, ...]

    @property
    def timed(self) -> bool:
        """Whether the files tell how long attacks took."""
        return any(line.seconds is not None for line in self._lines)

    @property
    def searched(self) -> bool:
        """Whether one of the attacks ran on images that had fallen already."""
        return any(line.name == SEARCH for line in self._lines)

    @property
    def _lines(self) -> list[Line]:
        return [line for block in self.blocks for line in block.lines]


def by_split(study: ReportData) -> list[Attacked]:
    """Test images and training images, as far as they were attacked."""
    every = (Attacked(f"{name} images", tuple(by_attack(study, split))) for split, name in SPLITS.items())
    return [attacked for attacked in every if attacked.blocks]


def by_attack(study: ReportData, split: str) -> list[Block]:
    """A block for each network that was evaluated, in the order of the study."""
    blocks = []
    for group in study.groups:
        lines = _over_seeds([_lines(record, split) for record in group.records])
        notes = dict.fromkeys(str(note) for found in group.values("splits", split, "notes") for note in found)
        if lines:
            blocks.append(Block(group, lines, _flags(group, split), tuple(notes)))
    return blocks


def csv_rows(study: ReportData) -> list[dict[str, Any]]:
    """The tables of both splits in full precision."""
    return [
        {
            "label": block.group.label,
            "method": block.group.method,
            "eps": block.group.eps,
            "split": split,
            "kind": line.kind,
            "attack": line.name,
            "images": line.images,
            "broken": line.broken,
            "value": line.right.value,
            "low": line.right.low,
            "high": line.right.high,
            "seconds": line.seconds,
        }
        for split in SPLITS
        for block in by_attack(study, split)
        for line in block.lines
    ]


def _flags(group: Network, split: str) -> dict[str, str]:
    """What was seen, by the flag's name; seeds that saw the same say it once."""
    found: dict[str, dict[str, None]] = {}
    for record in group.records:
        for flag in flags_of(record, split):
            found.setdefault(flag.name, {})[flag.seen] = None
    return {name: "; ".join(seen) for name, seen in found.items()}


def _lines(record: RunReport, split: str) -> list[Line]:
    """One run: clean, then every attack, those of a suite under its sum."""
    found = dig(record.evaluation, "splits", split)
    n, clean = dig(found, "n"), as_interval(dig(found, "clean"))
    if not isinstance(n, int) or n < 1 or clean is None:
        return []
    right = round(n * clean.value)
    names = record.evaluation.get("attacks") or ()
    attacks = {line.name: line for line in _attacks(found, names, n, right)}
    lines = [Line("clean", "clean", n, n - right, 1.0, clean)]
    for name in record.columns:
        parts = [attacks[part] for part in record.suites.get(name) or [name] if part in attacks]
        if parts and name in record.suites:
            parts = [_sum(name, parts), *(replace(part, kind="member") for part in parts)]
        lines += parts
    return lines


def _attacks(found: Mapping[str, Any], names: Iterable[str], n: int, right: int) -> Iterator[Line]:
    """The attacks in their order, on `n` images of which `right` were right before the first."""
    standing = right
    for name in names:
        after = as_interval(dig(found, "by_attack", name))
        if after is None:
            continue
        left = round(n * after.value)
        everyone = name == SEARCH and dig(found, "curve")
        images = right if everyone else standing
        seconds = dig(found, "seconds", name)
        yield Line("attack", name, images, standing - left, standing / n, after, seconds)
        standing = left


def _sum(name: str, lines: Sequence[Line]) -> Line:
    """A suite: what its first attack was given, and all that its attacks broke."""
    first, last = lines[0], lines[-1]
    broken = sum(line.broken for line in lines)
    return Line("suite", name, first.images, broken, first.before, last.right, _total(lines))


def _total(lines: Iterable[Line]) -> float | None:
    seconds = [line.seconds for line in lines if line.seconds is not None]
    return sum(seconds) if seconds else None


def _over_seeds(runs: Sequence[Sequence[Line]]) -> tuple[Line, ...]:
    """The means over the runs that have a line."""
    together: dict[tuple[str, str], list[Line]] = {}
    for line in chain.from_iterable(runs):
        together.setdefault((line.kind, line.name), []).append(line)
    return tuple(_mean(lines) for lines in together.values())


def _mean(lines: Sequence[Line]) -> Line:
    right = combined(line.right for line in lines)
    assert right is not None
    seconds = [line.seconds for line in lines if line.seconds is not None]
    return replace(
        lines[0],
        images=mean(line.images for line in lines),
        broken=mean(line.broken for line in lines),
        before=mean(line.before for line in lines),
        right=right,
        seconds=mean(seconds) if seconds else None,
    )
