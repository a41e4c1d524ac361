"""Parts of an explanation, one measure of one checkpoint each, that several processes share.

Every measure has its own draws, so it is the same number in whatever order and company it is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustlens import data, machine, models
from robustlens.config import Checkpoint, ExplanationPlan
from robustlens.data import Splits
from robustlens.explain.registry import get
from robustlens.explain.run import expected_of_model, measured
from robustlens.explain.saved import saved_measures, write_part
from robustlens.progress import Listener, silent
from robustlens.results import Provenance, Run

_SHORTEST_FIRST = (
    "activations",
    "gallery",
    "margins",
    "gradients",
    "jacobian",
    "bound",
    "spectrum",
    "smoothness",
    "sharpness",
    "flatness",
    "curvature",
    "landscape",
)
"""As measured of a small network and 1,000 images, but for `spectrum`, which grows with the layers alone."""


@dataclass(frozen=True)
class Part:
    """One measure of one checkpoint.

    Attributes:
        measure: its name.
        other: the checkpoint, where it is not the primary one.
    """

    measure: str
    other: Checkpoint | None = None

    def __str__(self) -> str:
        return self.measure if self.other is None else f"{self.other} {self.measure}"


def parts_of_run(run: Run, plan: ExplanationPlan) -> list[Part]:
    """Parts that `explain_run` would still measure, the longest first.

    Raises:
        ConfigError: unknown measure, or an option that the measure does not have.
        StateError: a file of the run is damaged.
    """
    _check_measures(plan)
    parts: list[Part] = []
    for other, one in run.missing("explanation", plan):
        parts += _left(run, run.expected(one), plan, other)
    return _longest_first(parts)


def parts_of_model(model: nn.Module, splits: Splits, plan: ExplanationPlan, folder: Path) -> list[Part]:
    """Parts that `explain_model` would still measure, the longest first; raises as `parts_of_run`.

    Raises:
        StateError: the folder holds the explanation of another network or of other images, too.
    """
    _check_measures(plan)
    run = Run(folder)
    return _longest_first(_left(run, expected_of_model(run, model, splits, plan), plan))


def measure_part_of_run(
    run: Run,
    plan: ExplanationPlan,
    part: Part,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    device: str = "auto",
    progress: Listener = silent,
) -> None:
    """Measure one part of what `explain_run` would; it is written where the other takes it in.

    When all parts are there, `explain_run` with the same plan measures nothing. One process has to hold the
    folder (`results.locks.locked`) while any part is at work. Args and errors as `explain_run`.
    """
    on = machine.device(device)
    splits = data.of_run(run, splits, trust_code=trust_code)
    one = next(one for other, one in run.missing("explanation", plan) if other == part.other)
    model = models.load(run.folder, checkpoint=one.checkpoint, trust_code=trust_code)
    _measure_part(run, run.expected(one), model.to(on), splits, one, part, progress)


def measure_part_of_model(
    model: nn.Module,
    splits: Splits,
    plan: ExplanationPlan,
    folder: Path,
    part: Part,
    *,
    progress: Listener = silent,
) -> None:
    """Measure one part of what `explain_model` would, as `measure_part_of_run`."""
    run = Run(folder)
    expected = expected_of_model(run, model, splits, plan)
    _measure_part(run, expected, model, splits, plan, part, progress)


def _measure_part(
    run: Run,
    expected: Provenance,
    model: nn.Module,
    splits: Splits,
    plan: ExplanationPlan,
    part: Part,
    progress: Listener,
) -> None:
    for name, measurement in measured(model, splits, plan, [part.measure], progress):
        write_part(run, expected, name, measurement, part.other)


def _check_measures(plan: ExplanationPlan) -> None:
    for name in plan.measures:
        get(name, **plan.options.get(name, {}))


def _left(
    run: Run, expected: Provenance, plan: ExplanationPlan, other: Checkpoint | None = None
) -> list[Part]:
    saved = saved_measures(run, expected, other)
    return [Part(name, other) for name in plan.measures if name not in saved]


def _longest_first(parts: Sequence[Part]) -> list[Part]:
    """The parts by how long they usually take; one that nobody knows may be the longest."""
    rank = {name: place for place, name in enumerate(_SHORTEST_FIRST)}
    return sorted(parts, key=lambda part: -rank.get(part.measure, len(rank)))
