"""Run folders: where everything of one training run lies, read and written as typed documents.

Only this room knows the names of files. Reading never creates or changes anything.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from robustlens.config import BEST, LAST, Checkpoint, DataSpec, Plan, Recipe, checked
from robustlens.config.plans import SomePlan
from robustlens.errors import ConfigError, StateError
from robustlens.results import array_files, files, metrics_file
from robustlens.results.evaluation import EvaluationResult
from robustlens.results.explanation import ExplanationResult
from robustlens.results.links import OwnFolder, inside
from robustlens.results.run import EpochRecord, RunRecord
from robustlens.results.stage_files import ResultFiles, Stage, StageResult, suffix
from robustlens.results.study import RunEntry
from robustlens.results.values import Provenance, decode
from robustlens.version import __version__


class Run(OwnFolder):
    """Folder of one training run and of everything that came of it.

    Args:
        folder: the folder; it need not exist yet.
        entry: what a study says of this run; None outside a study.
        read_only: leave all writing to another process: every write does nothing.
    """

    def __init__(self, folder: Path | str, entry: RunEntry | None = None, *, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.entry = entry
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def path(self, *names: str) -> Path:
        """The path of a file or folder in the run's; raises `StateError` where a link leads out of it."""
        return inside(self.folder, *names)

    # -- the run itself --------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether anything was written here."""
        return any(
            (self.folder / f"{name}.json").exists() for name in ("run", "recipe", "evaluation", "explanation")
        )

    @property
    def record(self) -> RunRecord:
        """State of the run; a new record where nothing has started."""
        path = self._json("run")
        return decode(RunRecord, files.read_json(path, "run"), str(path)) if path.exists() else RunRecord()

    @property
    def has_recipe(self) -> bool:
        """Whether the folder belongs to a recipe."""
        return self._json("recipe").exists()

    @property
    def recipe(self) -> Recipe:
        """The recipe that this folder belongs to; raises `StateError` where there is none."""
        path, expected = self._json("recipe"), self.record.recipe_hash
        try:
            recipe = checked(Recipe, files.read_json(path, "recipe"), str(path))
        except ConfigError as error:
            raise StateError(f"{error}; the file was changed, or belongs to another version") from error
        if expected and recipe.hash() != expected:
            raise StateError(
                f"{path}: found recipe {recipe.hash()}, expected {expected} as in run.json beside it; "
                "restore the one that was changed"
            )
        return recipe

    @property
    def data_spec(self) -> DataSpec:
        """The data of the recipe, from the folder that training was given unless another is named now."""
        spec, known = self.recipe.data, self.record.data_dir
        if spec.data_dir or known is None or os.environ.get("ROBUSTLENS_DATA") or not Path(known).is_dir():
            return spec
        return spec.model_copy(update={"data_dir": known})

    def metrics(self) -> list[EpochRecord]:
        """The epochs that were trained. A last line that a kill cut short is passed over."""
        return metrics_file.read(self.path("metrics.jsonl"), self.record)

    def kept_checkpoints(self) -> list[Checkpoint]:
        """Checkpoints that training kept on its way, the earliest first; the last epoch's is `last`."""
        names = sorted(path.stem for path in self.folder.glob("epoch-*.safetensors"))
        kept = [Checkpoint.parse(name) for name in names if re.fullmatch(r"epoch-[0-9]{1,9}", name)]
        return [checkpoint for checkpoint in kept if checkpoint.epoch != self.record.epochs_done]

    def weights_path(self, checkpoint: Checkpoint) -> Path:
        """The file of a checkpoint; raises `StateError` naming those that are there."""
        path = self.path(f"{checkpoint}.safetensors")
        if path.exists():
            return path
        ends = [one for one in (BEST, LAST) if (self.folder / f"{one}.safetensors").exists()]
        there = ", ".join(str(one) for one in [*ends, *self.kept_checkpoints()])
        raise StateError(
            f"{self.folder}: found no checkpoint {checkpoint}, only {there or 'none'}; "
            "train it, or name one of these (recipe.keep_every keeps epochs)"
        )

    def weights_seal(self, checkpoint: Checkpoint) -> str:
        """Name of the weights of a checkpoint: their seal, or the start of their digest in format 1."""
        content = files.read_bytes(self.weights_path(checkpoint))
        return files.seal_of(content) or hashlib.sha256(content).hexdigest()[:16]

    # -- results ---------------------------------------------------------------------------------

    def evaluation(self, other: Checkpoint | None = None) -> EvaluationResult | None:
        """The evaluation of the primary checkpoint, or of another one; None where there is none."""
        return cast("EvaluationResult | None", self.result("evaluation", other))

    def explanation(self, other: Checkpoint | None = None) -> ExplanationResult | None:
        """The explanation of the primary checkpoint, or of another one; None where there is none."""
        return cast("ExplanationResult | None", self.result("explanation", other))

    def result(self, stage: Stage, other: Checkpoint | None = None) -> StageResult | None:
        """The result of a stage by its name; `other` as in `evaluation`.

        Raises:
            StateError: its files are damaged, or those of another run or checkpoint.
        """
        result = self.files(stage, other).read()
        if result is not None:
            self._check_place(result.provenance, stage, other)
        return result

    def files(self, stage: Stage, other: Checkpoint | None = None) -> ResultFiles:
        """The two files of the result of a stage."""
        return ResultFiles(self.folder, stage, other)

    def other_checkpoints(self, stage: Stage) -> dict[int, Checkpoint]:
        """Checkpoints other than the primary one that have a result: epoch -> checkpoint, in order."""
        names = [path.stem.removeprefix(f"{stage}-") for path in self.folder.glob(f"{stage}-*.json")]
        checkpoints = [
            Checkpoint.parse(name) for name in names if re.fullmatch(r"last|epoch-[0-9]{1,9}", name)
        ]
        done = self.record.epochs_done
        epochs = [(done if one.epoch is None else one.epoch, one) for one in checkpoints]
        return dict(sorted(epochs, key=lambda item: (item[0], item[1] == LAST)))  # last goes over its epoch

    def expected(self, plan: Plan) -> Provenance:
        """Provenance that a result of `plan`, for one checkpoint, would have."""
        checkpoint = Checkpoint.parse(plan.checkpoint)
        return Provenance(
            recipe=self.recipe.hash(),
            weights=self.weights_seal(checkpoint),
            data=self.record.data,
            checkpoint=checkpoint,
            plan=plan.model_dump(mode="json"),
            version=__version__,
        )

    def missing(self, stage: Stage, plan: SomePlan) -> list[tuple[Checkpoint | None, SomePlan]]:
        """Results of `plan` that are not there, or not current; the primary checkpoint's comes last.

        Returns:
            For each its checkpoint (`other`, as in `evaluation`), and its own plan.
        """
        primary, *others = plan.checkpoints(self.kept_checkpoints())
        wanted = [(None, plan.at(primary)), *((one, plan.at(one)) for one in others)]
        return [(other, one) for other, one in reversed(wanted) if not self._matches(stage, other, one)]

    def is_current(self, stage: Stage, plan: Plan) -> bool:
        """Whether the results of `plan` are there, for every checkpoint that it asks for."""
        return not self.missing(stage, plan)

    def check_data(self, fingerprint: str) -> None:
        """Raise `StateError` if the run was trained on other images than those with this fingerprint."""
        known = self.record.data
        if known and fingerprint != known:
            raise StateError(
                f"{self.folder}/run.json: belongs to other images, found data {fingerprint}, "
                f"expected {known}; give the data of its training, or train it again in another folder"
            )

    def _check_place(self, provenance: Provenance, stage: Stage, other: Checkpoint | None) -> None:
        pairs = [(provenance.recipe, self.record.recipe_hash), (provenance.checkpoint, other)]
        for own, expected in pairs:
            if expected and own != expected:
                path, shown = self.files(stage, other).path, own or "a model without a recipe"
                raise StateError(f"{path}: found a result of {shown}, expected one of {expected}; restore it")

    def _matches(self, stage: Stage, other: Checkpoint | None, plan: Plan) -> bool:
        result = self.result(stage, other)
        if isinstance(result, ExplanationResult) and not result.is_complete:
            return False
        return result is not None and result.provenance.matches(self.expected(plan))

    # -- writing ---------------------------------------------------------------------------------

    def bind(self, recipe: Recipe) -> None:
        """Make the folder that of `recipe`; raises as `check` if it is bound to another."""
        self.check(recipe)
        if not self.has_recipe:
            self._write_json("recipe", recipe)
        if self.record.recipe_hash != recipe.hash():  # new, or killed between the two files
            self.update(status="new", recipe_hash=recipe.hash(), error=None)

    def check(self, recipe: Recipe) -> None:
        """Raise `StateError` if the folder belongs to another recipe; the differing field is named."""
        if not self.has_recipe:
            if self.record.recipe_hash not in ("", recipe.hash()):
                raise StateError(
                    f"{self.folder}/run.json: belongs to recipe {self.record.recipe_hash}, whose recipe.json "
                    "is missing; restore it, or choose another --out"
                )
            return
        difference = recipe.difference(self.recipe)
        if difference:
            raise StateError(
                f"{self.folder}/recipe.json: belongs to another recipe ({difference}); "
                "choose another --out, or delete the folder to start again"
            )

    def update(self, **changes: Any) -> None:
        """Change some fields of the run's record."""
        if not self.read_only:
            self._write_json("run", replace(self.record, **changes))

    def append_metrics(self, epoch: EpochRecord) -> None:
        """Append one epoch to `metrics.jsonl`."""
        if not self.read_only:
            metrics_file.append(self.path("metrics.jsonl"), epoch, self.record)

    def truncate_metrics(self, epochs: int) -> None:
        """Drop what a killed process logged after its last saved epoch."""
        path = self.path("metrics.jsonl")
        if self.read_only or not path.exists():
            return
        self.metrics()  # damage is said now, not after another day of training
        metrics_file.truncate(path, epochs)

    def write_weights(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Write the weights of a checkpoint, as `models.to_bytes` makes them."""
        self.write_bytes(f"{checkpoint}.safetensors", content)

    def write_bytes(self, file_name: str, content: bytes, *, previous: str | None = None) -> None:
        """Write any other file of the folder, atomically; the one before is kept as `previous`."""
        if not self.read_only:
            kept = None if previous is None else self.path(previous)
            files.write_atomic(self.path(file_name), content, previous=kept)

    def remove(self, file_name: str) -> None:
        """Remove any other file of the folder, or a folder in it, if it is there."""
        if not self.read_only:
            files.remove(self.path(file_name))

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Write `<name>.safetensors`, sealed and atomically; returns the seal."""
        return "" if self.read_only else array_files.write_arrays(self.path(f"{name}.safetensors"), arrays)

    def write(self, stage: Stage, result: StageResult, other: Checkpoint | None = None) -> None:
        """Write the result of a stage and its arrays; `other` as in `evaluation`."""
        if not self.read_only:
            self.files(stage, other).write(result)

    def remove_stale(self, stage: Stage) -> None:
        """Remove the results of other checkpoints that another plan than the primary one's made."""
        wanted = _but_checkpoint(self.result(stage))
        for checkpoint in () if self.read_only else self.other_checkpoints(stage).values():
            if _but_checkpoint(self.result(stage, checkpoint)) != wanted:
                self.files(stage, checkpoint).remove()

    def state_folder(self, other: Checkpoint | None = None, stage: Stage = "evaluation") -> Path:
        """Folder in which the unfinished result of a stage keeps its progress."""
        return self.path(f"{stage}.state{suffix(other)}")

    def adversarial_name(self, other: Checkpoint | None = None) -> str:
        """Name of the arrays that hold the adversarial images of an evaluation."""
        return f"adversarial{suffix(other)}"

    # -- pieces ----------------------------------------------------------------------------------

    def _json(self, name: str) -> Path:
        return self.path(f"{name}.json")

    def _write_json(self, name: str, document: Any) -> None:
        if not self.read_only:
            files.write_json(self._json(name), document, name)


def _but_checkpoint(result: StageResult | None) -> dict[str, Any]:
    plan = {} if result is None else result.provenance.plan
    return {key: value for key, value in plan.items() if key != "checkpoint"}
