"""Evaluations as files keep them: `evaluation.json` and its arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from robustlens.results.values import Arrays, Estimate95, Flag, Number, Provenance, ThreatRecord
from robustlens.stats.intervals import Interval


@dataclass(frozen=True)
class CurvePoint:
    """Robust accuracy at one radius."""

    eps: float
    value: Number
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> Interval:
        """The accuracy with its interval."""
        return Interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class ReplacedLayer:
    """A layer through which attacks did not follow autograd's gradient.

    Attributes:
        name: of the module, or "module: operation", or "the network".
        kind: why: its gradient is "missing", "zero" or "inconsistent", or its output "random".
        surrogate: what attacks followed: "straight-through", "smoothed" or "mean over draws".
    """

    name: str
    kind: str
    surrogate: str


@dataclass(frozen=True)
class SplitResult:
    """Numbers of one split of images, "test" or "train".

    Attributes:
        n: images.
        clean, robust: shares of all images that are right, unattacked and under every attack.
        loss: mean cross entropy, unattacked, in nats.
        by_attack: share still right after each attack *and all before it*, in order.
        attacked, broken: how many images each attack was run on, and how many it broke first.
        seconds: time spent on each attack.
        certified: share proven robust, by certifier.
        curve: robust accuracy at each radius, ascending. flags, notes: as the evaluation raised them.
        replaced: layers that adaptive attacks went round.
        arrays: labels, masks, losses and distances, image by image.
    """

    n: int
    clean: Estimate95
    robust: Estimate95
    loss: Estimate95
    by_attack: Mapping[str, Estimate95] = field(default_factory=dict)
    attacked: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    certified: Mapping[str, Estimate95] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    replaced: tuple[ReplacedLayer, ...] = ()
    arrays: Arrays = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class EvaluationResult:
    """One checkpoint under attack, on training and test images.

    Attributes:
        provenance: what it was computed from. threat: what the attacker may do.
        attacks: in the order in which they ran. suites: the attacks of each suite that was asked for by name.
        splits: by name. gaps: how far the splits lie apart, positive where training looks better.
        seconds: time of the whole, over all sittings and processes.
    """

    provenance: Provenance
    threat: ThreatRecord
    attacks: tuple[str, ...]
    splits: Mapping[str, SplitResult]
    gaps: Mapping[str, Estimate95]
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: Number = 0.0

    @property
    def columns(self) -> dict[str, str]:
        """Columns of a table of robust accuracies: title -> the attack after which it counts.

        A suite that was asked for by name is one column, which counts after its last attack.
        """
        inside = {part: suite for suite, parts in self.suites.items() for part in parts}
        return {inside.get(name, name): name for name in self.attacks}

    def after(self, column: str, split: str = "test") -> Interval | None:
        """Accuracy after an attack or a suite, and all before it; None where it was not run."""
        part = self.splits.get(split)
        return (
            None if part is None or column not in self.columns else part.by_attack.get(self.columns[column])
        )
