"""The run folder: one recipe, everything that came of it, in JSON and safetensors only.

Writes are atomic (a temporary file in the same folder, flushed, renamed), so a kill at any moment leaves the
previous version. A lock that the kernel drops with its process keeps a second writer out. Nothing here
needs torch: the report reads runs on machines that have none.
"""

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from robustlens.errors import ConfigError, LockedError, ResourceError, StateError
from robustlens.config import Recipe, checked

FORMAT = 1
"""Version of the files of a run or study folder; raised when a reader of the old one would misread them."""


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error


def _umask() -> int:
    """The process's file-mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity, unknown to JSON, become null."""
    write_atomic(path, (json.dumps(_finite(content), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; raises `StateError` naming the file if it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StateError(f"{path}: no such file; is this a folder that robustlens wrote?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: damaged JSON ({error}); restore it or delete the file") from error
    if not isinstance(found, dict):
        raise StateError(f"{path}: found a JSON {type(found).__name__}, expected an object")
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing. The kernel frees the lock when the process ends, however it ends.

    Raises:
        LockedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder}: another process is writing here; wait for it, or choose another --out"
            ) from error
        yield


def _plan_but_checkpoint(result: Mapping[str, Any] | None) -> dict[str, Any]:
    plan = (result or {}).get("plan") or {}
    return {key: value for key, value in plan.items() if key != "checkpoint"}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def attack_columns(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a table of robust accuracies: title -> the attack after which it counts.

    A suite that was asked for by name is one column, which counts after its last attack.

    >>> attack_columns({"attacks": ["fgsm", "fab", "square"], "suites": {"standard": ["fab", "square"]}})
    {'fgsm': 'fgsm', 'standard': 'square'}
    """
    suites = evaluation.get("suites") or {}
    inside = {part: suite for suite, parts in suites.items() for part in parts}
    return {inside.get(name, name): name for name in evaluation["attacks"]}


class Run:
    """A run folder. Reading never creates or changes anything.

    Args:
        folder: the folder; it need not exist yet.
        entry: what a study says of this run (label, method, eps, seed ...); empty outside a study.
    """

    def __init__(self, folder: Path | str, entry: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.entry: dict[str, Any] = dict(entry or {})

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # -- reading ---------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        """`run.json`, or `{"status": "new"}` where nothing has started."""
        return self.read_json("run") or {"status": "new"}

    @property
    def recipe(self) -> Recipe:
        """The recipe this folder belongs to; raises `StateError` where there is none."""
        path = self.folder / "recipe.json"
        try:
            return checked(Recipe, read_json(path), str(path))
        except ConfigError as error:
            raise StateError(f"{error}; the file was changed, or belongs to another version") from error

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """`evaluation.json`, or None."""
        return self.read_json("evaluation")

    @property
    def explanation(self) -> dict[str, Any] | None:
        """`explanation.json`, or None."""
        return self.read_json("explanation")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """`<name>.json` of this folder, or None where it does not exist."""
        path = self.folder / f"{name}.json"
        return read_json(path) if path.exists() else None

    def array(self, name: str, key: str) -> np.ndarray:
        """One array of `<name>.safetensors`; `StateError` if the file is damaged, KeyError if absent."""
        with self._opened(name) as file:
            if key not in file.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                raise KeyError(key)
            return file.get_tensor(key)

    def array_names(self, name: str, prefix: str = "") -> list[str]:
        """Names in `<name>.safetensors` that begin with `prefix`; empty where there is no file."""
        if not (self.folder / f"{name}.safetensors").exists():
            return []
        with self._opened(name) as file:
            return sorted(key for key in file.keys() if key.startswith(prefix))  # noqa: SIM118

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                yield file
        except FileNotFoundError as error:
            raise StateError(f"{path}: no such file; run the step that writes it first") from error
        except SafetensorError as error:
            raise StateError(f"{path}: damaged ({error}); delete it and run the step again") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs of `metrics.jsonl`. A last line that a kill cut short is passed over."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        epochs = []
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                epochs.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number == len(lines):
                    break
                raise StateError(
                    f"{path}: line {number} is damaged; delete the run folder to start again"
                ) from error
        return epochs

    def weights(self, checkpoint: str) -> bytes:
        """The file of a checkpoint; raises `StateError` naming those that are there."""
        try:
            return (self.folder / f"{checkpoint}.safetensors").read_bytes()
        except FileNotFoundError as error:
            ends = (name for name in ("best", "last") if (self.folder / f"{name}.safetensors").exists())
            there = [*ends, *self.kept()]
            raise StateError(
                f"{self.folder}: found no checkpoint {checkpoint}, only {', '.join(there) or 'none'}; "
                "train it, or name one of these (recipe.keep_every keeps epochs)"
            ) from error

    def kept(self) -> list[str]:
        """Checkpoints that training kept on its way, the earliest first; the last epoch's is `last`."""
        last = f"epoch-{self.status.get('epochs_done', 0):04d}"
        return sorted({path.stem for path in self.folder.glob("epoch-*.safetensors")} - {last})

    def along(self, name: str) -> dict[int, str]:
        """The results `<name>` of the checkpoints along training: epoch -> the end of the result's name.

        Empty where no checkpoint but the chosen one has one, which is left out.
        """
        found = {path.stem.removeprefix(name) for path in self.folder.glob(f"{name}-*.json")}
        epochs = {int(ending[7:]): ending for ending in found if re.fullmatch(r"-epoch-\d+", ending)}
        if "-last" in found:
            epochs[int(self.status.get("epochs_done", 0))] = "-last"
        return dict(sorted(epochs.items()))

    # -- writing ---------------------------------------------------------------------------------

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `<name>.json`, atomically."""
        write_json(self.folder / f"{name}.json", content)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write `<name>.safetensors`, atomically."""
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        write_atomic(self.folder / f"{name}.safetensors", save_arrays(contiguous))

    def write_result(self, name: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write `<name>.json` and its arrays so that a kill in between leaves no mismatched pair.

        The JSON file says that there is a result: it goes first and comes back last.
        """
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        self.write_arrays(name, arrays)
        self.write_json(name, content)

    def drop_outdated(self, name: str) -> None:
        """Remove the results `<name>` of other checkpoints that another plan than that of `<name>` made."""
        wanted = _plan_but_checkpoint(self.read_json(name))
        for ending in self.along(name).values():
            if _plan_but_checkpoint(self.read_json(f"{name}{ending}")) != wanted:
                (self.folder / f"{name}{ending}.json").unlink()
                (self.folder / f"{name}{ending}.safetensors").unlink(missing_ok=True)

    def write_bytes(self, file_name: str, content: bytes) -> None:
        """Write any other file of the folder, atomically."""
        write_atomic(self.folder / file_name, content)

    def update_status(self, **changes: Any) -> None:
        """Change some fields of `run.json`."""
        self.write_json("run", {"format": FORMAT, **self.status, **changes})

    def truncate_metrics(self, epochs: int) -> None:
        """Drop what a killed process logged after its last saved epoch."""
        kept = [epoch for epoch in self.metrics() if epoch["epoch"] <= epochs]
        self.write_bytes("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in kept).encode())

    def append_metrics(self, epoch: Mapping[str, Any]) -> None:
        """Append one epoch to `metrics.jsonl` and flush it to the disk."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_finite(epoch), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def check(self, recipe: Recipe) -> None:
        """Raise `StateError` if the folder belongs to another recipe; the differing field is named."""
        if not (self.folder / "recipe.json").exists():
            return
        difference = recipe.difference(self.recipe)
        if difference:
            raise StateError(
                f"{self.folder}/recipe.json: belongs to another recipe ({difference}); "
                "choose another --out, or delete the folder to start again"
            )

    def claim(self, recipe: Recipe) -> None:
        """Bind the folder to `recipe`; raises as `check` if it is bound to another."""
        self.check(recipe)
        if not (self.folder / "recipe.json").exists():
            self.write_json("recipe", recipe.model_dump(mode="json"))
            self.update_status(status="new", recipe_hash=recipe.hash(), error=None)


class StudyFolder:
    """The folder of a study: `study.json`, `runs/`, `claims.json`, `report/`."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def meta(self) -> dict[str, Any]:
        """`study.json`; raises `StateError` where this is no study folder."""
        return read_json(self.folder / "study.json")

    def runs(self) -> list[Run]:
        """Every run of the study, finished or not, in the order of the plan."""
        return [Run(self.folder / entry["folder"], entry) for entry in self.meta["runs"]]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The claims checked on this study; empty before that."""
        path = self.folder / "claims.json"
        return list(read_json(path)["claims"]) if path.exists() else []
