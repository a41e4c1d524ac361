"""Effect of each attack on each network: images given and broken, accuracy after it, its time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import mean
from typing import Any, Literal

from robustlens.report.data import Network, ReportData, RunReport, known
from robustlens.report.text.flags import flags_of
from robustlens.report.text.wording import SPLITS, attack_name, suite_name
from robustlens.results import SplitResult
from robustlens.stats.intervals import Interval, share_over_seeds

SEARCH = "min-norm"
"""The search behind a curve of radii: to measure distances it also runs on images already broken."""


@dataclass(frozen=True)
class AttackLine:
    """One attack, or a suite and the sum of its attacks. Over several seeds, everything is a mean.

    Attributes:
        kind: "clean" is the start, in which broken are the images that are wrong without an attack.
        name: of the attack or the suite.
        images: how many it was given.
        broken: how many of them it broke.
        before: share of all images that were right before it.
        right: share of all images that are right after it and all before it.
        seconds: None in files that do not have it.
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
class NetworkAttacks:
    """One network on one split. `flags` are what was seen, by name."""

    network: Network
    lines: tuple[AttackLine, ...]
    flags: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SplitAttacks:
    """All networks on one split."""

    images: str
    networks: tuple[NetworkAttacks, ...]

    @property
    def timed(self) -> bool:
        """Whether the files say how long attacks took."""
        return any(line.seconds is not None for line in self._lines)

    @property
    def searched(self) -> bool:
        """Whether one of the attacks ran on images that were broken already."""
        return any(line.name == SEARCH for line in self._lines)

    @property
    def _lines(self) -> list[AttackLine]:
        return [line for network in self.networks for line in network.lines]


def by_split(data: ReportData) -> list[SplitAttacks]:
    """Test images and training images, as far as they were attacked."""
    every = [SplitAttacks(f"{name} images", tuple(by_network(data, split))) for split, name in SPLITS.items()]
    return [attacks for attacks in every if attacks.networks]


def by_network(data: ReportData, split: str) -> list[NetworkAttacks]:
    """Effect of the attacks on each network that was evaluated, in the order of the study."""
    every = []
    for network in data.networks:
        lines = _combined(network, split)
        notes = dict.fromkeys(note for part in network.splits(split) for note in part.notes)
        if lines:
            every.append(NetworkAttacks(network, lines, _flags(network, split), tuple(notes)))
    return every


def _combined(network: Network, split: str) -> tuple[AttackLine, ...]:
    """The means over the seeds; of a group over its networks, each over its seeds first."""
    if network.members:
        return _over_seeds([_combined(member, split) for member in network.members])
    return _over_seeds([_lines(run, split) for run in network.runs])


def csv_rows(data: ReportData) -> list[dict[str, Any]]:
    """The tables of both splits in full precision."""
    return [
        {
            "label": attacks.network.label,
            "method": attacks.network.method,
            "eps": attacks.network.eps,
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
        for attacks in by_network(data, split)
        for line in attacks.lines
    ]


def _flags(network: Network, split: str) -> dict[str, str]:
    """Observations by the flag's name; what several seeds have in common is said once."""
    observations: dict[str, dict[str, None]] = {}
    for run in network.runs:
        for flag in flags_of(run, split):
            observations.setdefault(flag.name, {})[flag.observed] = None
    return {name: "; ".join(observed) for name, observed in observations.items()}


def _lines(run: RunReport, split: str) -> list[AttackLine]:
    """One run: clean, then every attack, those of a suite under its sum."""
    part, clean = run.split(split), run.clean(split)
    if run.evaluation is None or part is None or part.n < 1 or clean is None:
        return []
    right = round(part.n * clean.value)
    attacks = {line.name: line for line in _attacks(part, run.evaluation.attacks, right)}
    lines = [AttackLine("clean", "clean", part.n, part.n - right, 1.0, clean)]
    for name in run.evaluation.columns:
        suite = run.evaluation.suites.get(name)
        members = [attacks[member] for member in suite or (name,) if member in attacks]
        if members and suite:
            members = [_sum(name, members), *(replace(member, kind="member") for member in members)]
        lines += members
    return lines


def _attacks(part: SplitResult, names: Iterable[str], right: int) -> Iterator[AttackLine]:
    """The attacks in their order, on images of which `right` were right before the first.

    A file without counts (format 1) gives them by its shares: each attack ran on the images still right.
    """
    survivors = right
    for name in names:
        after = known(part.by_attack.get(name))
        if after is None:
            continue
        left = round(part.n * after.value)
        given = right if name == SEARCH and part.curve else survivors
        yield AttackLine(
            "attack",
            name,
            part.attacked.get(name, given),
            part.broken.get(name, survivors - left),
            survivors / part.n,
            after,
            part.seconds.get(name),
        )
        survivors = left


def _sum(name: str, lines: Sequence[AttackLine]) -> AttackLine:
    """A suite: what its first attack was given, and all that its attacks broke."""
    first, last = lines[0], lines[-1]
    broken = sum(line.broken for line in lines)
    seconds = [line.seconds for line in lines if line.seconds is not None]
    total = sum(seconds) if seconds else None
    return AttackLine("suite", name, first.images, broken, first.before, last.right, total)


def _over_seeds(runs: Sequence[Sequence[AttackLine]]) -> tuple[AttackLine, ...]:
    """The means over the runs that have a line."""
    together: dict[tuple[str, str], list[AttackLine]] = {}
    for line in chain.from_iterable(runs):
        together.setdefault((line.kind, line.name), []).append(line)
    return tuple(_mean(lines) for lines in together.values())


def _mean(lines: Sequence[AttackLine]) -> AttackLine:
    right = share_over_seeds(line.right for line in lines)
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
