"""The check of everything in a folder: every file read, every seal compared, every link between files."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustlens.config import Checkpoint
from robustlens.errors import RobustlensError, StateError, StoppedError
from robustlens.results import array_files, files
from robustlens.results.links import links_out
from robustlens.results.pack_folder import PackFolder
from robustlens.results.run_folder import Run
from robustlens.results.stage_files import STAGES, Stage, suffix
from robustlens.results.study_folder import StudyFolder
from robustlens.results.values import Arrays


@dataclass(frozen=True)
class FileCheck:
    """Outcome of the check of one file: `problem` is None where all is well."""

    path: Path
    sealed: bool
    problem: str | None = None


def verify(folder: Path | str) -> list[FileCheck]:
    """Check every file of ours in a study, run or packed folder, and in what lies inside; nothing is changed.

    Raises:
        StateError: there is no study, no run and no packed data set in the folder.
    """
    folder = Path(folder)
    if not any(one.exists for one in (StudyFolder(folder), Run(folder), PackFolder(folder))):
        raise StateError(f"{folder}: no run, no study and no packed data set here; name the folder of one")
    checks = [FileCheck(path, True, str(error)) for path, error in links_out(folder).items()]
    checks += _unreadable(folder)
    led_out = {check.path for check in checks}
    ours = (path for path in sorted(folder.rglob("*")) if path not in led_out and _is_ours(path, folder))
    checks += [_file(path) for path in ours]
    broken = {check.path for check in checks if check.problem}
    return checks + [check for check in _links(folder) if check.problem and check.path not in broken]


def _unreadable(folder: Path) -> list[FileCheck]:
    """Folders that the system does not let be looked into, whose files would be passed over."""
    errors: list[OSError] = []
    for _ in os.walk(folder, onerror=errors.append):
        pass
    return [
        FileCheck(Path(error.filename), False, f"{error.filename}: cannot be read ({error.strerror})")
        for error in errors
    ]


def _is_ours(path: Path, folder: Path) -> bool:
    """Files that are sealed; not the report, files of trackers and, with a dot, what a killed save left."""
    inside = path.relative_to(folder).parts
    return (
        path.is_file()
        and path.suffix in (".json", ".jsonl", ".safetensors")
        and not {"report", "tracking"} & set(inside[:-1])
        and not (path.name.startswith("."))
    )


def _file(path: Path) -> FileCheck:
    try:
        content = files.read_bytes(path)
        if path.suffix == ".safetensors":
            return FileCheck(
                path,
                array_files.check_tensors(content, str(path), array_files.metadata_of(path)).seal is not None,
            )
        if path.suffix == ".jsonl":
            Run(path.parent).metrics()
            return FileCheck(path, all(files.seal_of(line) for line in content.splitlines()))
        files.parsed_json(content, "", str(path))
        return FileCheck(path, files.seal_of(content) is not None)
    except StoppedError:
        raise
    except RobustlensError as error:
        return FileCheck(path, False, str(error))


def _links(folder: Path) -> Iterator[FileCheck]:
    """Documents of the right types that belong together, where every file by itself may be intact."""
    study = StudyFolder(folder)
    if study.exists:
        yield _linked(folder / "study.json", lambda: study.record)
        yield _linked(folder / "claims.json", lambda: study.claims)
    if PackFolder(folder).exists:
        yield from _packed(PackFolder(folder))
    folders = {path.parent for name in ("run", "recipe") for path in folder.rglob(f"{name}.json")}
    for run in map(Run, sorted(folders)):
        yield _linked(run.folder / "run.json", partial(_check_record, run))
        for stage in STAGES:
            for other in _checkpoints(run, stage):
                path = run.folder / f"{stage}{suffix(other)}.json"
                yield _linked(path, partial(_check_result, run, stage, other))


def _packed(pack: PackFolder) -> Iterator[FileCheck]:
    """The arrays of a packed data set, which its manifest names, and every byte of its shards."""
    try:
        record = pack.record
    except RobustlensError:  # found by itself
        return
    for name, split in record.splits.items():
        yield _linked(pack.folder / f"{name}.safetensors", partial(_all_arrays, pack.arrays(name, split)))
        for shard in split.shards:
            yield _linked(pack.folder / shard.file, partial(pack.check_shard, shard, record.shape))


def _all_arrays(arrays: Arrays) -> None:
    for name in arrays:
        arrays[name]


def _checkpoints(run: Run, stage: Stage) -> list[Checkpoint | None]:
    try:
        return [None, *run.other_checkpoints(stage).values()]
    except RobustlensError:  # a damaged run.json, which is found by itself
        return [None]


def _linked(path: Path, check: Callable[[], object]) -> FileCheck:
    try:
        check()
    except StoppedError:
        raise
    except RobustlensError as error:
        return FileCheck(path, True, str(error))
    return FileCheck(path, True)


def _check_record(run: Run) -> None:
    record = run.record
    if run.has_recipe and record.recipe_hash and record.recipe_hash != run.recipe.hash():
        raise StateError(
            f"{run.folder}/run.json: belongs to recipe {record.recipe_hash}, not to recipe.json beside it"
        )
    if len(run.metrics()) < record.epochs_done:
        raise StateError(
            f"{run.folder}/metrics.jsonl: holds fewer epochs than the {record.epochs_done} of run.json"
        )


def _check_result(run: Run, stage: Stage, other: Checkpoint | None) -> None:
    if run.result(stage, other) is not None:
        run.files(stage, other).verify()
