"""The stages of one run, from data to explanation; each is skipped where its result is there already."""

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustlens import data
from robustlens.config import DataSpec, EvaluationPlan, ExplanationPlan, Recipe, radius_problem
from robustlens.data import Splits
from robustlens.errors import ConfigError, ResourceError, StateError
from robustlens.evaluation import evaluate_run
from robustlens.executors import Job, Resources, Shared
from robustlens.explain import explain_run
from robustlens.progress import Listener
from robustlens.results import Run, StudyFolder
from robustlens.tracking import Tracking
from robustlens.training import train
from robustlens.training.distributed import IMPORTED_LATE

_ON_CPU = ("spectrum",)
"""Measures that work on the CPU, whatever device the network is on: another run may have the device."""


@dataclass(frozen=True)
class Stages:
    """What is done with one run. Code that its recipe names is trusted: the study was read so.

    Attributes:
        folder: of the run, in the folder of a study.
        recipe: of its training. evaluation, explanation: plans of what comes after it.
        tracking: trackers that are told of the training.
    """

    folder: Path
    recipe: Recipe
    evaluation: EvaluationPlan
    explanation: ExplanationPlan
    tracking: Tracking = field(default_factory=Tracking)

    def jobs(self, images: Shared, threads: int = 0) -> list[Job]:
        """The stages, each after the one before.

        Args:
            images: `Splits` of the recipe; several runs may share them.
            threads: of each job; 0 leaves them to the executor.
        """
        on_cpu = set(self.explanation.measures) & set(_ON_CPU)
        works = {"train": _train, "evaluate": _evaluate}
        works |= {"explain": _explain} if on_cpu != set(self.explanation.measures) else {}
        works |= {"finish": _finish}
        run, jobs = self.folder.name, list[Job]()
        for stage, work in works.items():
            needs = Resources(threads, device=work is not _finish or not on_cpu)
            after = (jobs[-1].name,) if jobs else ()
            imports = IMPORTED_LATE if work is _train else ()
            jobs.append(Job(f"{run}: {stage}", work, (self, images), run, after, needs, imports))
        return jobs

    def run(self) -> Run:
        """The run's folder.

        Raises:
            ResourceError: the study's folder is not there, as on a machine that does not share its disk.
        """
        study = self.folder.absolute().parents[1]
        if not StudyFolder(study).exists:
            raise ResourceError(
                f"{study}: found no study there on {socket.gethostname()}; "
                "give --out a folder that every machine sees by the same path"
            )
        return Run(self.folder)


def _train(listen: Listener, stages: Stages, images: Shared) -> None:
    folder, splits = stages.run().folder, images.value()
    _check_radii(splits, stages.evaluation, stages.explanation)
    train(stages.recipe, folder, splits=splits, progress=listen, track=stages.tracking)


def _evaluate(listen: Listener, stages: Stages, images: Shared) -> None:
    run, trusted = stages.run(), stages.recipe.names_code
    evaluate_run(run, stages.evaluation, splits=images.value(), trust_code=trusted, progress=listen)


def _explain(listen: Listener, stages: Stages, images: Shared, without: Sequence[str] = _ON_CPU) -> None:
    run, trusted, splits = stages.run(), stages.recipe.names_code, images.value()
    explain_run(run, stages.explanation, splits=splits, without=without, trust_code=trusted, progress=listen)


def _finish(listen: Listener, stages: Stages, images: Shared) -> None:
    _explain(listen, stages, images, without=())
    stages.run().update(status="done", error=None)


def _check_radii(splits: Splits, evaluation: EvaluationPlan, explanation: ExplanationPlan) -> None:
    """Refuse, before the first epoch, a radius that reaches any image of this size."""
    for where, threat in (("evaluation", evaluation.threat), ("explanation", explanation.threat)):
        problem = radius_problem(threat.norm, threat.eps, dimensions=math.prod(splits.shape))
        if problem:
            raise ConfigError(f"{where}.threat.eps: {problem}")


class Fingerprints:
    """Fingerprints of data, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, spec: DataSpec) -> str:
        """The fingerprint of the images that a spec names; raises as `data.of_spec`."""
        key = f"{spec.model_dump_json()} {spec.data_dir}"
        if key not in self._known:
            self._known[key] = data.of_spec(spec, trust_code=True).fingerprint
        return self._known[key]


def is_done(run: Run, evaluation: EvaluationPlan, explanation: ExplanationPlan, images: Fingerprints) -> bool:
    """Whether every stage of a run is current, and its images are the same as ever.

    A run that is damaged or has other images now is not: its worker will say what is wrong.
    """
    try:
        is_current = (
            run.record.status == "done"
            and run.is_current("evaluation", evaluation)
            and run.is_current("explanation", explanation)
        )
        if is_current:
            run.check_data(images.of(run.data_spec))
        return is_current
    except StateError:
        return False
