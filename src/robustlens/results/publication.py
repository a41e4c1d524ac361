"""A run as others get it: files by their exact names, without what belongs to this machine alone."""

from itertools import product
from pathlib import Path

from robustlens.config import BEST, LAST, Checkpoint
from robustlens.errors import StateError
from robustlens.results import array_files, files
from robustlens.results.run_folder import Run
from robustlens.results.stage_files import STAGES, Stage, suffix
from robustlens.results.study_folder import StudyFolder
from robustlens.results.verify import verify

DOCUMENTS = ("recipe.json", "run.json", "metrics.jsonl")
"""Documents that say what a run is."""
_CHECKPOINTS = (BEST, LAST)
WEIGHTS = tuple(f"{checkpoint}.safetensors" for checkpoint in _CHECKPOINTS)
"""Weights of a run that others get."""
_RESULTS = tuple(
    f"{stage}{suffix(other)}.{kind}"
    for stage in STAGES
    for other in (None, LAST)
    for kind in ("json", "safetensors")
)
PUBLISHED = (*DOCUMENTS, *WEIGHTS, *_RESULTS)
"""Every file of a run that others get; no training state, no lock, no log, no page, no adversarial image."""


def publish(run: Run, folder: Path) -> tuple[str, ...]:
    """Copy what others get of a run to an empty folder, and check the copy: seals, and what belongs together.

    The documents are copied as they are, but for `run.json`, which loses the folder of the data files and is
    sealed anew. Where the folder of a finished run changes in between, the check finds it.

    Returns:
        The names of the files, in the order of `PUBLISHED`.

    Raises:
        StateError: no run, one that is not trained to its end, a file that is damaged, or results of other
            weights than those beside them.
    """
    _check_finished(run)
    unpublished = _results_of_other_weights(run)
    names = tuple(name for name in PUBLISHED if name not in unpublished and run.path(name).is_file())
    for name in names:
        files.write_atomic(folder / name, files.read_bytes(run.path(name)))
    copy = Run(folder)
    copy.update(data_dir=None, error=None)
    _check_copy(run, copy)
    return names


def _check_finished(run: Run) -> None:
    if StudyFolder(run.folder).exists:
        raise StateError(f"{run.folder}: is a study; name one of the runs in its folder runs")
    if not run.has_recipe:
        raise StateError(f"{run.folder}: found no recipe.json, expected the folder of a training run")
    record = run.record
    if not record.is_trained:
        raise StateError(
            f"{run.folder}/run.json: found status {record.status!r}, expected a run that is trained; run the "
            "same train or study command to its end"
        )
    if not any(run.path(name).is_file() for name in WEIGHTS):
        raise StateError(f"{run.folder}: found no {' or '.join(WEIGHTS)}; train the run again")


def _results_of_other_weights(run: Run) -> set[str]:
    """Files of results whose weights others do not get: those of an epoch that `keep_every` kept."""
    names = set()
    for stage, other in product(STAGES, (None, LAST)):
        result = run.result(stage, other)
        if result is not None and result.provenance.checkpoint not in (None, *_CHECKPOINTS):
            names |= {run.files(stage, other).path.name, run.files(stage, other).arrays_path.name}
    return names


def _check_copy(run: Run, copy: Run) -> None:
    """Raise `StateError` naming the first file that is damaged, or that does not belong to this run."""
    for check in verify(copy.folder):
        if check.problem is not None:
            raise StateError(check.problem.replace(str(copy.folder), str(run.folder)))
    expected = copy.recipe.hash()
    for name in WEIGHTS:
        path = copy.folder / name
        recipe = array_files.read_header(path).values.get("recipe") if path.is_file() else None
        if recipe and recipe != expected:
            raise StateError(
                f"{run.folder / name}: found weights of recipe {recipe}, expected {expected}; restore it"
            )
    for stage, other in product(STAGES, (None, LAST)):
        _check_weights(run, copy, stage, other)


def _check_weights(run: Run, copy: Run, stage: Stage, other: Checkpoint | None) -> None:
    """Raise `StateError` where a result was computed from other weights than those in the copy."""
    result = copy.result(stage, other)
    if result is None or result.provenance.checkpoint is None:
        return
    if result.provenance.weights != copy.weights_seal(result.provenance.checkpoint):
        raise StateError(
            f"{run.folder}/{stage}{suffix(other)}.json: was computed from other weights than "
            f"{result.provenance.checkpoint}.safetensors beside it; run the {stage} again"
        )
