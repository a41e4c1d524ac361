"""Reads a study folder, or one run folder, into what the report shows.

A run that failed, is unfinished or lost a file stays in the report with its status; nothing that is missing
or damaged in one run hides another. Every document is read once; arrays are read when they are drawn.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from robustlens.config import Checkpoint, in_unicode
from robustlens.errors import RobustlensError, StateError, StoppedError, of_system
from robustlens.report.data import CheckpointReport, Network, ReportData, RunReport
from robustlens.report.drawing.palette import styles
from robustlens.report.text.wording import method_name, names
from robustlens.results import (
    ClaimResult,
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Run,
    RunRecord,
    SplitResult,
    StudyFolder,
    StudyRecord,
)
from robustlens.results.array_files import ArrayFile
from robustlens.results.planned import planned_evaluation, planned_explanation
from robustlens.results.same_weights import explanation_beside

Value = TypeVar("Value")


def read_study(folder: Path, claims: tuple[ClaimResult, ...] | None = None) -> ReportData:
    """Read a study folder, and its claims where none are given.

    Raises:
        StateError: `study.json` is missing or damaged.
    """
    source = StudyFolder(folder)
    record = source.record
    if not record.runs:
        raise StateError(f"{folder}/study.json: no list of runs; run the study again to write it")
    problems: tuple[str, ...] = ()
    if claims is None:
        try:
            claims = source.claims
        except StoppedError:
            raise
        except RobustlensError as error:
            claims, problems = (), (f"claims.json cannot be read: {error}",)
    networks = _networks(_RunReader(run, record).report() for run in source.runs(record))
    return ReportData(record.name or _name(folder), networks, record, claims, problems)


def read_run(folder: Path) -> ReportData:
    """Read one run folder that need not belong to a study; raises `StateError` where there is none."""
    run = Run(folder)
    if not run.exists:
        raise StateError(f"{folder}: no run here; name the folder of a run or a study")
    return ReportData(_name(folder), _networks([_RunReader(run, StudyRecord()).report()]))


def _name(folder: Path) -> str:
    """Name of a folder, also of "."; of one that is no Unicode, as pages and files can hold it."""
    return in_unicode(folder.resolve().name)


def _networks(runs: Iterable[RunReport]) -> tuple[Network, ...]:
    together: dict[tuple[str, str, float], list[RunReport]] = {}
    for run in runs:
        together.setdefault((run.label, run.method, run.eps), []).append(run)
    labels = _unique([label for label, _, _ in together])
    colours = styles([(method, eps) for _, method, eps in together])
    return tuple(
        Network(label, method, eps, tuple(seeds), style)
        for label, ((_, method, eps), seeds), style in zip(labels, together.items(), colours, strict=True)
    )


def _unique(labels: list[str]) -> list[str]:
    """The labels, numbered where two networks share one."""
    counts: dict[str, int] = {}
    unique = []
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
        unique.append(label if counts[label] == 1 else f"{label} ({counts[label]})")
    return unique


class _RunReader:
    """Reads the files of one run; what cannot be read is a problem of that file alone.

    So is a result of another plan than the study's, which is left out.
    """

    def __init__(self, run: Run, study: StudyRecord) -> None:
        self.run = run
        self.study = study
        self.problems: dict[str, None] = {}  # a dict rather than a set, for its order

    def report(self) -> RunReport:
        """Everything of the run."""
        run, entry = self.run, self.run.entry
        recipe = self._read(lambda: run.recipe if run.has_recipe else None, None)
        named = (entry.method if entry else "") or (method_name(recipe) if recipe else "")
        method = named or _name(run.folder)
        eps = entry.eps if entry else recipe.threat.eps if recipe and recipe.objective != "standard" else 0.0
        record = self._read(lambda: run.record, RunRecord())
        evaluation = self._evaluation()
        explanation = self._explanation(evaluation) or self._explanation_of_others(evaluation)
        self._verify(evaluation.splits.values() if evaluation else ())
        self._verify(explanation.measures.values() if explanation else ())
        return RunReport(
            source=run,
            name=entry.id if entry else _name(run.folder),
            label=entry.label if entry else method if eps == 0 else f"{method} {eps:g}",
            method=method,
            eps=eps,
            seed=entry.seed if entry else recipe.seed if recipe else 0,
            record=record,
            recipe=recipe,
            evaluation=evaluation,
            explanation=explanation,
            other_checkpoints=self._other_checkpoints(),
            metrics=self._read(lambda: tuple(run.metrics()), ()),
            problems=tuple(self.problems),
        )

    def _verify(self, parts: Iterable[SplitResult | Measurement]) -> None:
        """Name a damaged file of arrays; a figure that asks for one of them gets none."""
        for part in parts:
            if isinstance(part.arrays, ArrayFile):
                self._read(part.arrays.verify, None)

    def _other_checkpoints(self) -> tuple[CheckpointReport, ...]:
        none: dict[int, Checkpoint] = {}
        checkpoints = self._read(lambda: self.run.other_checkpoints("evaluation"), none)
        return tuple(
            CheckpointReport(
                evaluation=(evaluation := self._evaluation(checkpoint)),
                explanation=self._explanation(evaluation, checkpoint),
                checkpoint=checkpoint,
                epoch=epoch,
            )
            for epoch, checkpoint in checkpoints.items()
        )

    def _evaluation(self, other: Checkpoint | None = None) -> EvaluationResult | None:
        """The evaluation as the study plans it."""
        return self._read(lambda: planned_evaluation(self.study, self.run, other), None)

    def _explanation(
        self, evaluation: EvaluationResult | None, other: Checkpoint | None = None
    ) -> ExplanationResult | None:
        """The explanation of the weights that were evaluated."""
        return self._planned(lambda: explanation_beside(self.run, evaluation, other))

    def _explanation_of_others(self, evaluation: EvaluationResult | None) -> ExplanationResult | None:
        """The primary explanation, although it is of other weights than those that were evaluated."""
        explanation = self._planned(self.run.explanation)
        if explanation and evaluation:
            self.problems[
                f"measures are of the {explanation.provenance.checkpoint} checkpoint, "
                f"accuracies of the {evaluation.provenance.checkpoint} one"
            ] = None
        return explanation

    def _planned(self, read: Callable[[], ExplanationResult | None]) -> ExplanationResult | None:
        """What of an explanation is measured as the study plans it."""
        whole = self._read(read, None)
        kept = self._read(lambda: planned_explanation(self.study, self.run, whole), None)
        others = [name for name in whole.measures if name not in kept.measures] if whole and kept else []
        if whole and others:
            self.problems[
                f"{names(others)} of {whole.provenance.checkpoint}: of another plan than the study's, "
                "and left out; run the study again"
            ] = None
        return kept

    def _read(self, content: Callable[[], Value], empty: Value) -> Value:
        try:
            return content()
        except StoppedError:
            raise
        except (RobustlensError, OSError) as error:  # a folder of somebody else's, say
            problem = of_system(error) or error
            # Without the folders above the run: a report travels to other machines.
            self.problems[str(problem).replace(f"{self.run.folder.parent}/", "")] = None
            return empty
