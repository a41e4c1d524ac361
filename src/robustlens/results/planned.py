"""Results of a study's runs, as far as they are of the plan that the study has now.

A study whose file was changed, and that was stopped before all its runs were evaluated anew, holds results of
both plans. Only those of its own belong into one mean, or into one claim.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robustlens.config import Checkpoint, EvaluationPlan, ExplanationPlan, Plan
from robustlens.config.values import flat
from robustlens.errors import StateError
from robustlens.results.evaluation import EvaluationResult
from robustlens.results.explanation import ExplanationResult
from robustlens.results.run_folder import Run
from robustlens.results.stage_files import completed
from robustlens.results.study import StudyRecord

_SAME_IMAGES = ("examples", "seed", "threat")  # fields of two plans that must agree for a measure to be kept


def planned_evaluation(
    study: StudyRecord, run: Run, other: Checkpoint | None = None
) -> EvaluationResult | None:
    """The evaluation of a run as its study plans it; None where there is none.

    Args:
        study: with the plan; one without a plan takes every evaluation.
        run: of the study.
        other: as in `Run.evaluation`.

    Raises:
        StateError: it is of another plan, or its files are damaged.
    """
    result = run.evaluation(other)
    if result is None or not study.evaluation:
        return result
    wanted, own = completed(EvaluationPlan, study.evaluation), dict(result.provenance.plan)
    if other is None:
        wanted |= {"checkpoint": str(_primary(wanted))}
    else:  # a checkpoint beside the primary one has its name in the file's
        wanted |= {"checkpoint": own.get("checkpoint")}
    _check(str(run.files("evaluation", other).path), own, wanted)
    return result


def planned_explanation(
    study: StudyRecord, run: Run, result: ExplanationResult | None
) -> ExplanationResult | None:
    """What of an explanation is measured as the study plans it: on its images, with its options.

    A study without a plan takes every measure.

    Raises:
        StateError: all of it is of another plan.
    """
    if result is None or not study.explanation:
        return result
    wanted, own = completed(ExplanationPlan, study.explanation), result.provenance.plan
    kept = {name: one for name, one in result.measures.items() if measured_alike(own, wanted, name)}
    if result.measures and not kept:
        fields = (*_SAME_IMAGES, "options")
        _check(
            f"{run.folder}: explanation of {result.provenance.checkpoint}",
            {field: own.get(field) for field in fields},
            {field: wanted.get(field) for field in fields},
        )
    return replace(result, measures=kept)


def measured_alike(own: Mapping[str, Any], wanted: Mapping[str, Any], measure: str) -> bool:
    """Whether two plans of an explanation take a measure on the same images, with the same options."""
    options = [(plan.get("options") or {}).get(measure) for plan in (own, wanted)]
    return options[0] == options[1] and all(own.get(field) == wanted.get(field) for field in _SAME_IMAGES)


def _primary(plan: Mapping[str, Any]) -> Checkpoint:
    return Plan(checkpoint=plan["checkpoint"]).checkpoints()[0]


def _check(where: str, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `StateError` naming the first field in which a plan is not the study's."""
    mine, theirs = flat(dict(own)), flat(dict(wanted))
    for field in {**theirs, **mine}:
        if mine.get(field) != theirs.get(field):
            raise StateError(
                f"{where}: of another plan than the study's ({field}: {mine.get(field)!r} -> "
                f"{theirs.get(field)!r}), and left out; run the study again"
            )
