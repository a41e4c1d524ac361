"""Studies: methods x strengths x seeds, carried out, checked against the papers' claims.

A study is a YAML file (see `built_in/quickstart.yaml` and `examples/`). Every run is a folder of its own;
a second call skips what is finished and goes on with what is not; a run that fails is recorded and does
not stop the others.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustlens import claims
from robustlens.config import EvaluationPlan, ExplanationPlan, StudySpec
from robustlens.data import of_spec
from robustlens.errors import LockedError, StateError, StoppedError
from robustlens.executors import Executor, Job, LocalProcesses, Outcome, Shared, SharesCores
from robustlens.progress import Event
from robustlens.results import ErrorRecord, Run, StudyFolder
from robustlens.results.locks import locked
from robustlens.study import planning
from robustlens.study.length import length
from robustlens.study.planning import PlannedRun, built_in, plan, read
from robustlens.study.stages import Fingerprints, Stages, is_done
from robustlens.tracking import Tracking, catch_up

__all__ = ["PlannedRun", "StudyResult", "StudySpec", "built_in", "plan", "read", "run"]


@dataclass(frozen=True)
class StudyResult:
    """Folder of a study, and how the runs ended that were carried out in this call.

    It goes wherever the path of the folder goes.
    """

    folder: StudyFolder
    skipped: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    def __fspath__(self) -> str:
        return str(self.folder.folder)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)


def run(
    spec: StudySpec,
    out: Path | str,
    *,
    executor: Executor | None = None,
    listen: Callable[[str, Event], None] = lambda name, event: None,
    track: Sequence[str] = (),
    track_dir: Path | None = None,
) -> StudyResult:
    """Carry out what is left of a study and check the claims on all that is there.

    Args:
        spec: the study.
        out: its folder.
        executor: `LocalProcesses()` by default.
        listen: hears (run, event).
        track: names of trackers (`tracking.TRACKERS`) that each run tells of its training.
        track_dir: folder in which they write; None for `tracking` in `out`.

    Raises:
        ConfigError: the study is wrong; nothing has been started. DataError: its data cannot be read.
        StateError: `out` holds runs of other recipes. LockedError: another process works in `out`.
    """
    planned = plan(spec)
    evaluation, explanation = planning.evaluation_plan(spec), planning.explanation_plan(spec)
    folder = StudyFolder(out)
    tracking = Tracking(tuple(track), (track_dir or folder.folder / "tracking").absolute(), spec.name)
    with locked(folder.folder):
        for one in planned:
            folder.run(one.id).check(one.recipe)
        folder.write_record(planning.record(spec, planned))
        images = Fingerprints()
        left = {one.id for one in planned if not is_done(folder.run(one.id), evaluation, explanation, images)}
        for one in planned:
            if one.id not in left:
                catch_up(folder.run(one.id), one.recipe, tracking)
        executor = executor or LocalProcesses()
        ordered = sorted(planned, key=lambda one: -length(one.recipe))
        threads = _threads(ordered, folder, executor)
        jobs = _jobs(
            [one for one in ordered if one.id in left], threads, folder, evaluation, explanation, tracking
        )
        outcomes = []
        for outcome in executor.run(jobs, listen):
            outcomes.append(outcome)
            if outcome.error:
                run_ = folder.run(outcome.name)
                if not is_done(run_, evaluation, explanation, images):
                    _record(run_, outcome.error, outcome.exit_code)
        claims.write(folder.folder)
    skipped = tuple(one.id for one in planned if one.id not in left)
    return StudyResult(folder, skipped, tuple(outcomes))


def _threads(ordered: Sequence[PlannedRun], folder: StudyFolder, executor: Executor) -> dict[str, int]:
    """Threads of each run: those that it began with, or its share of the cores; 0 leaves them open."""
    shares: Sequence[int] = [0] * len(ordered)
    if isinstance(executor, SharesCores):
        shares = executor.share_cores([length(one.recipe) for one in ordered])
    return {
        one.id: _began_with(folder.run(one.id)) or share for one, share in zip(ordered, shares, strict=True)
    }


def _began_with(run_: Run) -> int:
    """Threads of a run that began on a CPU, which another number would not go on with bit for bit; or 0."""
    with contextlib.suppress(StateError):  # its worker will say what is wrong
        environment = run_.record.environment
        number = environment.get("threads", "")
        if environment.get("device", "").startswith("cpu") and number.isdecimal():
            return int(number)
    return 0


def _jobs(
    left: Sequence[PlannedRun],
    threads: Mapping[str, int],
    folder: StudyFolder,
    evaluation: EvaluationPlan,
    explanation: ExplanationPlan,
    tracking: Tracking,
) -> list[Job]:
    """The stages of these runs; those of the same images share them."""
    images: dict[str, Shared] = {}
    jobs = []
    for one in left:
        recipe = one.recipe
        key = f"{recipe.data.model_dump_json()} {recipe.data.data_dir} {recipe.names_code}"
        shared = images.setdefault(key, Shared(partial(of_spec, recipe.data, trust_code=recipe.names_code)))
        stages = Stages(folder.run(one.id).folder, recipe, evaluation, explanation, tracking)
        jobs.extend(stages.jobs(shared, threads[one.id]))
    return jobs


def _record(run_: Run, error: str, exit_code: int) -> None:
    """Note a failure that the worker could not note itself, a kill for instance.

    A stop is no failure, and a folder that refused the work stays as it is. A run that failed after its
    training stays trained: it goes on from there, whatever became of its training state.
    """
    refused = (LockedError.exit_code, StateError.exit_code, StoppedError.exit_code)
    with contextlib.suppress(StateError):  # a damaged run.json is left for its owner to see
        if exit_code not in refused and run_.record.status != "failed":
            status = "trained" if run_.record.is_trained else "failed"
            run_.update(status=status, error=ErrorRecord("Failure", error, exit_code))
