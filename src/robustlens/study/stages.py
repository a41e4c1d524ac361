"""The stages of one run, from data to explanation; each is skipped where its result is there already."""

import math
from pathlib import Path

from robustlens import data
from robustlens.config import DataSpec, EvaluationPlan, ExplanationPlan, Recipe, radius_problem
from robustlens.data import Splits
from robustlens.errors import ConfigError, StateError
from robustlens.evaluation import evaluate_run
from robustlens.explain import explain_run
from robustlens.progress import Listener
from robustlens.results import Run
from robustlens.training import train


def run_stages(
    listen: Listener, folder: Path, recipe: Recipe, evaluation: EvaluationPlan, explanation: ExplanationPlan
) -> None:
    """Train, evaluate and explain one network.

    Code that the recipe names is trusted: the study was read so. A run folder may name no other.
    """
    trusted = recipe.names_code
    splits = data.of_spec(recipe.data, trust_code=trusted)
    _check_radii(splits, evaluation, explanation)
    run = train(recipe, folder, splits=splits, progress=listen)
    evaluate_run(run, evaluation, splits=splits, trust_code=trusted, progress=listen)
    explain_run(run, explanation, splits=splits, trust_code=trusted, progress=listen)
    run.update(status="done", error=None)


def _check_radii(splits: Splits, evaluation: EvaluationPlan, explanation: ExplanationPlan) -> None:
    """Refuse, before the first epoch, a radius that reaches any image of this size."""
    for where, threat in (("evaluation", evaluation.threat), ("explanation", explanation.threat)):
        problem = radius_problem(threat.norm, threat.eps, dimensions=math.prod(splits.shape))
        if problem:
            raise ConfigError(f"{where}.threat.eps: {problem}")


class Fingerprints:
    """Fingerprints of data, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, spec: DataSpec) -> str:
        """The fingerprint of the images that a spec names; raises as `data.of_spec`."""
        key = f"{spec.model_dump_json()} {spec.data_dir}"
        if key not in self._known:
            self._known[key] = data.of_spec(spec, trust_code=True).fingerprint
        return self._known[key]


def is_done(run: Run, evaluation: EvaluationPlan, explanation: ExplanationPlan, images: Fingerprints) -> bool:
    """Whether every stage of a run is current, and its images are the same as ever.

    A run that is damaged or has other images now is not: its worker will say what is wrong.
    """
    try:
        is_current = (
            run.record.status == "done"
            and run.is_current("evaluation", evaluation)
            and run.is_current("explanation", explanation)
        )
        if is_current:
            run.check_data(images.of(run.data_spec))
        return is_current
    except StateError:
        return False
