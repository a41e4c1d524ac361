"""The evaluation and the explanation of the same weights, whichever checkpoint is the primary one of each."""

from robustlens.config import Checkpoint
from robustlens.results.evaluation import EvaluationResult
from robustlens.results.explanation import ExplanationResult
from robustlens.results.run_folder import Run


def explanation_beside(
    run: Run, evaluation: EvaluationResult | None, other: Checkpoint | None = None
) -> ExplanationResult | None:
    """The explanation of the weights that an evaluation is of; None where there is none.

    A study that evaluates the best and the last checkpoint, and explains the last alone, has the explanation
    of the last under the name of a primary one.

    Args:
        run: its folder.
        evaluation: `run.evaluation(other)`. None takes the explanation under that name.
        other: as in `Run.evaluation`.

    Raises:
        StateError: its files are damaged.
    """
    if evaluation is None:
        return run.explanation(other)
    checkpoint = evaluation.provenance.checkpoint
    for name in dict.fromkeys((other, None, checkpoint)):
        explanation = run.explanation(name)
        if explanation is not None and explanation.provenance.checkpoint == checkpoint:
            return explanation
    return None
