"""`metrics.jsonl`: a sealed line for each epoch, bound to the run's recipe."""

from pathlib import Path

from robustlens.errors import StateError
from robustlens.results import files
from robustlens.results.run import EpochRecord, RunRecord
from robustlens.results.values import decode, plain


def read(path: Path, record: RunRecord) -> list[EpochRecord]:
    """The epochs of the run that `record` is of. A last line that a kill cut short is passed over.

    Raises:
        StateError: a line is damaged, of another run, or missing.
    """
    if not path.exists():
        return []
    *lines, _ = files.read_bytes(path).split(b"\n")
    epochs = [
        _epoch(line, f"{path}: line {number}", record.recipe_hash)
        for number, line in enumerate(lines, start=1)
    ]
    done = record.epochs_done
    if [epoch.epoch for epoch in epochs] != list(range(1, len(epochs) + 1)):
        raise StateError(f"{path}: epochs are missing; delete the run folder to start again")
    if len(epochs) < done or (record.is_trained and len(epochs) > done):
        raise StateError(
            f"{path}: found {len(epochs)} whole lines, expected {done} as in run.json; restore the file, or "
            "delete the run folder to start again"
        )
    return epochs


def append(path: Path, epoch: EpochRecord, record: RunRecord) -> None:
    """Add an epoch. The file is written anew, so that a copy that shares its bytes stays as it is."""
    before = files.read_bytes(path) if path.exists() else b""
    bound = {**plain(epoch), "recipe": record.recipe_hash}
    files.write_atomic(path, before + files.sealed_json(bound, "epoch", indent=None))


def truncate(path: Path, epochs: int) -> None:
    """Keep the first lines alone."""
    lines = files.read_bytes(path).split(b"\n")[:epochs]
    files.write_atomic(path, b"".join(line + b"\n" for line in lines))


def _epoch(line: bytes, where: str, recipe_hash: str) -> EpochRecord:
    try:
        content = files.parsed_json(line + b"\n", "epoch", where)
        epoch = decode(EpochRecord, content, where)
    except StateError as error:
        raise StateError(f"{where} is damaged; delete the run folder to start again") from error
    recipe = content.get("recipe", recipe_hash)
    if recipe_hash and recipe != recipe_hash:
        raise StateError(f"{where}: found an epoch of recipe {recipe!r}, expected {recipe_hash}; restore it")
    return epoch
