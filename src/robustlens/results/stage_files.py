"""The two files of a stage's result: numbers in JSON, arrays in safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from robustlens.config import Checkpoint, EvaluationPlan, ExplanationPlan, Plan, checked
from robustlens.errors import ConfigError, StateError
from robustlens.results import array_files, files
from robustlens.results.array_files import ArrayFile
from robustlens.results.evaluation import EvaluationResult
from robustlens.results.explanation import ExplanationResult
from robustlens.results.links import inside
from robustlens.results.values import Arrays, Provenance, decode, plain

Stage = Literal["evaluation", "explanation"]
"""The stages that write a result into a run folder."""
STAGES: tuple[Stage, ...] = get_args(Stage)
StageResult = EvaluationResult | ExplanationResult

_KINDS: dict[str, tuple[type[Any], type[Plan], str]] = {
    "evaluation": (EvaluationResult, EvaluationPlan, "splits"),
    "explanation": (ExplanationResult, ExplanationPlan, "measures"),
}
"""Of each stage its document, its plan, and the field of the document that holds the parts with arrays."""
_BEFORE: dict[type[Plan], dict[str, Any]] = {EvaluationPlan: {"curve_search": "plain"}}
"""What plans did that were saved before they had a field that says it, where that is not its default."""
_PROVENANCE = {"recipe": "recipe_hash"}  # of the fields of a provenance, those that files call otherwise


@dataclass(frozen=True)
class ResultFiles:
    """One result, read and written as a document with its arrays.

    Args:
        folder: of the run.
        stage: that made it.
        other: its checkpoint, where that is not the primary one; None for the primary one.
    """

    folder: Path
    stage: Stage
    other: Checkpoint | None = None

    @property
    def path(self) -> Path:
        """The JSON file: it says that there is a result."""
        return inside(self.folder, f"{self.stage}{suffix(self.other)}.json")

    @property
    def arrays_path(self) -> Path:
        """The file of the arrays."""
        return inside(self.folder, f"{self.stage}{suffix(self.other)}.safetensors")

    def read(self) -> StageResult | None:
        """The result, its arrays read when they are asked for; None where there is none."""
        if not self.path.exists():
            return None
        document, plan, parts = _KINDS[self.stage]
        content = files.read_json(self.path, self.stage)
        names = {name: _PROVENANCE.get(name, name) for name in Provenance.__dataclass_fields__}
        provenance = {name: content.get(key) for name, key in names.items()}
        provenance |= {"plan": completed(plan, content.get("plan")), "version": content.get("version") or ""}
        result = decode(document, {**content, "provenance": provenance}, str(self.path))
        arrays = ArrayFile(self.arrays_path, content.get("arrays"))
        arrays.check_owner()
        inside = {
            name: replace(part, arrays=arrays.under(f"{name}/"))
            for name, part in getattr(result, parts).items()
        }
        return replace(result, **{parts: inside})

    def arrays(self) -> Arrays:
        """All arrays of the result; `StateError` where it has none."""
        return ArrayFile(self.arrays_path, files.read_json(self.path, self.stage).get("arrays"))

    def verify(self) -> None:
        """Read the arrays once; raises `StateError` where they are missing, damaged or of another result."""
        ArrayFile(self.arrays_path, files.read_json(self.path, self.stage).get("arrays")).verify()

    def check_source(self, saved: Provenance, expected: Provenance) -> None:
        """Raise `StateError` naming the first thing in which a saved result was computed from another."""
        difference = saved.difference(expected)
        if difference is not None:
            thing = "model" if difference == "weights" else difference
            raise StateError(f"{self.path}: belongs to another {thing}; choose another --out")

    def check_no_run(self) -> None:
        """Raise `StateError` where the folder is a run's: its results are of its own weights and images."""
        for name in ("recipe.json", "run.json"):
            if inside(self.folder, name).exists():
                belongs = "belongs to a run, whose results are of its own weights and images"
                raise StateError(f"{self.folder}/{name}: {belongs}; choose another --out")

    def write(self, result: StageResult) -> None:
        """Write the result so that a kill in between leaves no mismatched pair.

        The JSON file goes first and comes back last, and names its arrays.
        """
        parts = getattr(result, _KINDS[self.stage][2])
        arrays = {
            f"{name}/{key}": array for name, part in parts.items() for key, array in part.arrays.items()
        }
        files.remove(self.path)
        seal = array_files.write_arrays(self.arrays_path, arrays)
        content = plain(result)
        provenance = content.pop("provenance")
        known = {_PROVENANCE.get(name, name): value for name, value in provenance.items()}
        files.write_json(self.path, {**known, **content, "arrays": seal}, self.stage)

    def remove(self) -> None:
        """Remove both files."""
        files.remove(self.path)
        files.remove(self.arrays_path)


def suffix(other: Checkpoint | None) -> str:
    """End of the names of what belongs to another checkpoint than the primary one."""
    return "" if other is None else f"-{other}"


def completed(kind: type[Plan], plan: Any) -> dict[str, Any]:
    """A saved plan with the fields that were added since: as things were then, else at their default."""
    if not isinstance(plan, Mapping):
        return {}
    try:
        return checked(kind, {**_BEFORE.get(kind, {}), **plan}, "plan").model_dump(mode="json")
    except ConfigError:  # of another version: it matches no plan of this one
        return dict(plan)
