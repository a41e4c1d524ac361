"""Runs of a study as evidence: documents and arrays by image, with every gap in them named.

One bad run raises no error. A result that is not there or cannot be read becomes `Missing` or `Unusable`,
whose message ends in the claim's `why`. Documents are read once per study, and files verified once.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustlens.claims import remedies
from robustlens.claims.missing import Damaged, Missing, missing_if_damaged
from robustlens.config import LAST, Checkpoint
from robustlens.errors import StateError
from robustlens.results import (
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Run,
    RunEntry,
    Stage,
    StudyFolder,
    StudyRecord,
)
from robustlens.results.planned import planned_evaluation, planned_explanation
from robustlens.results.same_weights import explanation_beside
from robustlens.stats.bootstrap import Array, Bootstrap, Examples, Unusable

LEAST_EXAMPLES = 50
"""Below this many images, or errors, resampling says too little about another draw of images."""

_OF_IMAGES = ("index", "label", "train_index", "train_label")
"""Arrays of measures of layers that are of the images."""

Document = TypeVar("Document")
Value = TypeVar("Value")
_Images = tuple[Examples, NDArray[np.int64] | None]


@dataclass(frozen=True, eq=False)
class RunData:
    """One run at one checkpoint, as the quantities of claims read it.

    Args:
        run: its folder, with its entry in the study.
        study: the whole study, for values that are the same for all runs.
        other: its checkpoint, where that is not the primary one; None for the primary one.
    """

    run: Run
    study: "StudyData" = field(repr=False)
    other: Checkpoint | None = None
    _others: "dict[Checkpoint, RunData]" = field(default_factory=dict, repr=False)
    _images: dict[tuple[Stage, str, str, int], _Images] = field(default_factory=dict, repr=False)

    @property
    def entry(self) -> RunEntry:
        """The run's entry in the study."""
        assert self.run.entry is not None, "the runs of a study have entries"
        return self.run.entry

    @property
    def eps(self) -> float:
        """Training strength; standard training has none, whatever its recipe says."""
        return 0.0 if self.entry.objective == "standard" else self.entry.eps

    @property
    def name(self) -> str:
        """Label, seed and checkpoint, for messages."""
        checkpoint = "" if self.other is None else f", {self.other}"
        return f"{self.entry.label} (seed {self.entry.seed}{checkpoint})"

    def at(self, checkpoint: Checkpoint) -> "RunData":
        """The same run at a checkpoint beside its primary one."""
        return self._others.setdefault(checkpoint, RunData(self.run, self.study, checkpoint))

    def along_training(self) -> "list[RunData]":
        """This run at every checkpoint that was evaluated beside its primary one; `Missing` if at none."""
        with missing_if_damaged():
            checkpoints = self.run.other_checkpoints("evaluation")
        if not checkpoints:
            reason = f"{self.name} {self._state} and has no evaluation along its training"
            raise Missing(reason, remedies.along_training(self.study.record))
        return [self.at(checkpoint) for checkpoint in checkpoints.values()]

    @cached_property
    def explained(self) -> "RunData":
        """The same run where it was explained: its primary checkpoint, or else the first one beside it."""
        beside: list[RunData] = []
        with suppress(Missing):
            beside = self.along_training()
        for one in (self, *beside):
            with suppress(Missing):
                if one._explanation is not None:
                    return one
        return self

    @property
    def evaluation(self) -> EvaluationResult:
        """Its evaluation; raises `Missing` where it has none."""
        return self._present(self._evaluation, "evaluation")

    @property
    def explanation(self) -> ExplanationResult:
        """Its explanation; raises `Missing` where it has none."""
        return self._present(self._explanation, "explanation")

    def measurement(self, name: str) -> Measurement:
        """One measurement of its explanation; raises `Missing` where it is not there."""
        if name not in self.explanation.measures:
            raise Missing(f"{self.name} has no measure {name} in its explanation", self._remedy(name))
        return self.explanation.measures[name]

    @cached_property
    def _evaluation(self) -> EvaluationResult | None:
        with missing_if_damaged():
            return planned_evaluation(self.study.record, self.run, self.other)

    @cached_property
    def _explanation(self) -> ExplanationResult | None:
        with missing_if_damaged():
            beside = explanation_beside(self.run, self._known_evaluation(), self.other)
            return planned_explanation(self.study.record, self.run, beside)

    def _known_evaluation(self) -> EvaluationResult | None:
        try:
            return self._evaluation
        except Damaged:
            return None

    @cached_property
    def _is_explained_elsewhere(self) -> bool:
        """Whether the primary explanation is of another checkpoint than the primary evaluation."""
        if self.other is not None or self._known_evaluation() is None or self._explanation is not None:
            return False
        with missing_if_damaged():
            return self.run.explanation() is not None

    def _present(self, document: Document | None, stage: Stage) -> Document:
        if document is None:
            remedy = remedies.last_checkpoint(self.study.record) if self.other == LAST else ""
            where = " of the weights that were attacked" if self._is_explained_elsewhere else ""
            raise Missing(f"{self.name} {self._state} and has no {self._result_name(stage)}{where}", remedy)
        return document

    def array(self, stage: Stage, part: str, key: str) -> np.ndarray:
        """One array of a split (of the evaluation) or of a measure (of the explanation), or `Missing`."""
        parts = self.evaluation.splits if stage == "evaluation" else self.explanation.measures
        try:
            return parts[part].arrays[key]
        except StateError as error:
            raise Damaged(str(error)) from None
        except KeyError:
            reason = f"{self.name} has no {part}/{key} in its {self._result_name(stage)}"
            raise Missing(reason, self._remedy(part) if stage == "explanation" else "") from None

    def evaluated(self, split: str, key: str, at_most: float = math.inf) -> tuple[Examples, Array]:
        """One number for each image of a split, as evaluated, cut at `at_most`; raises as `measured`."""
        examples, (values,) = self._examples("evaluation", split, split, "index", (key,), at_most)
        return examples, values

    def measured(self, measure: str, index: str, *keys: str) -> tuple[Examples, list[Array]]:
        """Arrays of a measure over the same images (the last axis), in the order of the image index.

        Args:
            measure: its name.
            index: the array of image numbers: "<split>_index", or "index", of test images.
            keys: the arrays.

        Runs measured on the same images get the same `Examples`, and so are resampled in pairs. Where no
        index is saved, rows are taken for the same images if the plan of the measurement is the same.

        Raises:
            Missing: an array is not there.
            Unusable: a value is not finite, or there are fewer than 50 images.
        """
        split = index.removesuffix("index").rstrip("_") or "test"
        return self._examples("explanation", measure, split, index, keys)

    def layers(self, measure: str, kind: str = "") -> list[str]:
        """Names of the layers that a measure has arrays of (under `kind`, if it has several), as called."""
        measures = self._explanation.measures if self._explanation else {}
        arrays = measures[measure].arrays if measure in measures else {}
        prefix = f"{kind}/" if kind else ""
        with missing_if_damaged():
            layers = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
        if not kind:  # what is of no layer, or under a kind of its own
            layers = [name for name in layers if "/" not in name and name not in _OF_IMAGES]
        if not layers:
            reason = f"{self.name} {self._state} and has no {'/'.join(filter(None, (measure, kind)))}"
            raise Missing(reason, self._remedy(measure))
        return measures[measure].as_called(layers, kind)

    def _examples(
        self, stage: Stage, part: str, split: str, index: str, keys: Sequence[str], at_most: float = math.inf
    ) -> tuple[Examples, list[Array]]:
        arrays = [np.minimum(self.array(stage, part, key), at_most, dtype=np.float64) for key in keys]
        n = arrays[0].shape[-1]
        for key, array in zip(keys, arrays, strict=True):
            if array.shape[-1] != n:
                seen = f"{part}/{key} has {array.shape[-1]} images"
                raise Unusable(f"{self.name}: {seen}, {part}/{keys[0]} has {n}")
            if not np.isfinite(array).all():
                raise Unusable(f"{self.name}: {part}/{key} holds values that are not finite")
        if n < LEAST_EXAMPLES:
            raise Unusable(f"{self.name} was measured on {n} images; at least {LEAST_EXAMPLES} are needed")
        known = (stage, part, index, n)
        if known not in self._images:
            self._images[known] = self._read_images(*known, split, keys[0])
        examples, order = self._images[known]
        return examples, arrays if order is None else [array[..., order] for array in arrays]

    def _read_images(self, stage: Stage, part: str, index: str, n: int, split: str, key: str) -> _Images:
        """The images of the last axis of an array, and what brings them into order; None: they are in it."""
        try:
            position = self.array(stage, part, index)
        except Missing:
            result = self.evaluation if stage == "evaluation" else self.explanation
            plan = json.dumps(result.provenance.plan, sort_keys=True)
            return Examples.of(split, n, plan.encode()), None
        if position.shape != (n,):
            seen = f"{part}/{index} has shape {position.shape}"
            raise Unusable(f"{self.name}: {seen}, {part}/{key} has {n} images")
        return Examples.at(split, position)

    def _remedy(self, measure: str) -> str:
        return remedies.measured(self.study.record, measure)

    def _result_name(self, stage: Stage) -> str:
        """Name of a result at this checkpoint, for messages."""
        return stage if self.other is None else f"{stage}-{self.other}"

    @cached_property
    def _state(self) -> str:
        """Status of the run, for a message that ends in "and has no ..."."""
        try:
            record = self.run.record
        except StateError:
            return "has a damaged run.json"
        if (error := record.error) or record.status == "failed":
            return f"failed ({(error.message or error.type) if error else 'no reason saved'})"
        return f"is {record.status}"


@dataclass(frozen=True, eq=False)
class StudyData:
    """The runs of a study, or those of one of its settings.

    Args:
        runs: in the order of the study.
        bootstrap: the resamples that every claim shares.
        record: the study's plan.
        setting: where this is, as a phrase: "in" some methods, "at" a checkpoint; empty for a whole study.
    """

    runs: list[RunData]
    bootstrap: Bootstrap
    record: StudyRecord = field(default_factory=StudyRecord)
    setting: str = ""
    _values: dict[Callable[..., Any], Any] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def of(cls, folder: StudyFolder, bootstrap: Bootstrap | None = None) -> "StudyData":
        """Every run of a study."""
        study = cls([], bootstrap or Bootstrap(), folder.record)
        study.runs.extend(RunData(run, study) for run in folder.runs(study.record))
        return study

    def once(self, compute: Callable[[Sequence[RunData]], Value]) -> Value:
        """`compute(runs)` of runs where they were explained, computed when it is first asked for."""
        if compute not in self._values:
            self._values[compute] = compute([run.explained for run in self.runs])
        return self._values[compute]

    def unperturbed(self) -> list[RunData]:
        """Every run of standard or plain adversarial training whose weights were not perturbed."""
        return [
            run
            for run in self.runs
            if run.entry.perturbation is None
            and (run.entry.objective == "standard" or (run.entry.objective == "at" and run.eps > 0))
        ]

    def adversarial(self) -> list[RunData]:
        """Every adversarially trained run."""
        return [run for run in self.runs if run.entry.objective != "standard" and run.eps > 0]
