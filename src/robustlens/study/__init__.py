"""Studies: methods x strengths x seeds, carried out, checked against the papers' claims.

A study is a YAML file (see `studies/quickstart.yaml` and `examples/`). Every run is a folder of its own;
a second call skips what is finished and goes on with what is not; a run that fails is recorded and does
not stop the others.
"""

import contextlib
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from robustlens import attacks, claims, explain, models, objectives
from robustlens.config import (
    DataSpec,
    EvaluationPlan,
    ExplanationPlan,
    ModelSpec,
    Plan,
    Recipe,
    ThreatSpec,
    Values,
    checked,
    eps_text,
    read_yaml,
)
from robustlens.data import augment
from robustlens.errors import ConfigError, StateError
from robustlens.evaluation import evaluate_run
from robustlens.executors.local import Job, LocalProcesses, Outcome
from robustlens.explain import explain_run
from robustlens.progress import Event, Listener
from robustlens.results.folders import FORMAT, Run, StudyFolder, locked, write_json
from robustlens.threat import ThreatModel
from robustlens.training.trainer import load_data, train

_COMPARED = {"objective": "at", "objective_options": {}, "threat": ThreatSpec(), "awp": None, "seed": 0}
_BUILT_IN = importlib.resources.files("robustlens") / "studies"


class StudySpec(Values):
    """What a study file holds.

    `threat` is the evaluation's threat model and the default strength of every method. `defaults` and each
    method hold fields of a recipe (but `threat` and `seed`); a method also has a `label` and may list several
    `eps`.
    """

    name: str
    description: str = ""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    threat: ThreatSpec = ThreatSpec()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    defaults: dict[str, Any] = Field(default_factory=dict)
    methods: tuple[dict[str, Any], ...] = Field(min_length=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    explanation: ExplanationPlan = ExplanationPlan()

    @property
    def evaluation_plan(self) -> EvaluationPlan:
        """The evaluation, at the study's threat unless it names its own."""
        values = {"threat": self.threat.model_dump(), **self.evaluation}
        if isinstance(values.get("attacks"), str | list | tuple):
            values["attacks"] = attacks.names(values["attacks"])
        return checked(EvaluationPlan, values, "evaluation")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its folder's name, its recipe, and how reports call it."""

    id: str
    recipe: Recipe
    label: str
    method: str

    def entry(self) -> dict[str, Any]:
        """This run in `study.json`."""
        recipe = self.recipe
        return {
            "id": self.id,
            "folder": f"runs/{self.id}",
            "method": self.method,
            "label": self.label,
            "objective": recipe.objective,
            "awp": recipe.awp is not None,
            "awp_from_attack": recipe.awp is not None and recipe.awp.from_attack,
            "eps": recipe.threat.eps,
            "seed": recipe.seed,
            # Claims compare a run with AWP to its twin, and strengths only where nothing else differs.
            "without_awp": recipe.model_copy(update={"awp": None}).hash(),
            "setting": recipe.model_copy(update=_COMPARED).hash(),
        }


@dataclass(frozen=True)
class StudyResult:
    """The folder of a study, and how the runs ended that were carried out in this call."""

    folder: StudyFolder
    skipped: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The runs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)


def built_in() -> list[str]:
    """Names of the studies that come with the package."""
    files = (file.name for file in _BUILT_IN.iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read(source: str | Path) -> StudySpec:
    """A study from a YAML file or by the name of a built-in one.

    Raises:
        ConfigError: no such file, not YAML, or a field is wrong (it is named).
    """
    if str(source) in built_in():
        with importlib.resources.as_file(_BUILT_IN / f"{source}.yaml") as path:
            values = read_yaml(path)
    elif Path(source).is_file():
        values = read_yaml(Path(source))
    else:
        known = ", ".join(built_in())
        raise ConfigError(f"study: found no file {str(source)!r}; give a YAML file or one of {known}")
    return checked(StudySpec, values, Path(source).name)


def plan(spec: StudySpec) -> list[PlannedRun]:
    """Every run of the study, methods in order, then strengths, then seeds.

    Raises:
        ConfigError: a method is wrong, or two runs would share a name.
    """
    planned = [
        _planned(spec, method, eps, seed)
        for method in spec.methods
        for eps in _strengths(spec, method)
        for seed in spec.seeds
    ]
    names = [run.id for run in planned]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{spec.name}: two runs are called {twice[0]!r}; give the methods different labels")
    _check_names(spec, planned)
    return planned


def _check_names(spec: StudySpec, planned: Sequence[PlannedRun]) -> None:
    """Refuse before the first epoch what only a later step would look up."""
    attacks.names(spec.evaluation_plan.attacks)
    for name in {*spec.explanation.measures, *spec.explanation.options}:
        explain.get(name, **spec.explanation.options.get(name, {}))
    for run_ in planned:
        models.check_name(run_.recipe.model.name)
        if run_.recipe.data.augment != "auto":
            augment.get(run_.recipe.data.augment)


def _fields(spec: StudySpec, method: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe fields of a method: its own laid on the defaults, laid on data and model of the study."""
    for where, values in (("defaults", spec.defaults), ("methods", method)):
        for field, instead in (("threat", "eps, and the study's threat"), ("seed", "the study's seeds")):
            if field in values:
                raise ConfigError(f"{spec.name}: {where}.{field}: is no field here; use {instead}")
    base = {
        "data": {**spec.data.model_dump(), "data_dir": spec.data.data_dir},
        "model": spec.model.model_dump(),
        "objective": "at",
    }
    return _merged(base, _merged(spec.defaults, method))


def _strengths(spec: StudySpec, method: Mapping[str, Any]) -> Sequence[Any]:
    fields = _fields(spec, method)
    if objectives.get(fields["objective"]).inner_attack is None:
        return [0.0]
    eps = fields.get("eps", spec.threat.eps)
    return eps if isinstance(eps, list | tuple) else [eps]


def _planned(spec: StudySpec, method: Mapping[str, Any], eps: Any, seed: int) -> PlannedRun:
    fields = _fields(spec, method)
    name = str(fields.pop("label", fields["objective"]))
    fields |= {"threat": {"norm": spec.threat.norm, "eps": eps}, "seed": seed}
    fields.pop("eps", None)
    recipe = checked(Recipe, fields, f"{spec.name}: method {name!r}")
    objectives.get(recipe.objective, **recipe.objective_options)
    strength = eps_text(recipe.threat.eps)
    several = len(_strengths(spec, method)) > 1
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return PlannedRun(
        id=f"{slug}-{strength.replace('/', '_')}-s{seed}",
        recipe=recipe,
        label=f"{name} {strength}" if several else name,
        method=name,
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mappings inside merged in turn."""
    merged = dict(base)
    for key, value in over.items():
        inside = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if inside else value
    return merged


def run(
    spec: StudySpec,
    out: Path | str,
    *,
    executor: Any = None,
    listen: Callable[[str, Event], None] = lambda name, event: None,
) -> StudyResult:
    """Carry out what is left of a study and check the claims on all that is there.

    Args:
        spec: the study.
        out: its folder.
        executor: `LocalProcesses()` by default; anything with its `run`.
        listen: hears (run, event).

    Raises:
        ConfigError: the study is wrong; nothing has been started. StateError: `out` holds runs of other
        recipes. LockedError: another process works in `out`.
    """
    planned, evaluation = plan(spec), spec.evaluation_plan
    folder = StudyFolder(out)
    with locked(folder.folder):
        for run_ in planned:
            Run(folder.folder / "runs" / run_.id).check(run_.recipe)
        write_json(folder.folder / "study.json", _meta(spec, planned, evaluation))
        left = [p for p in planned if not _is_done(Run(folder.folder / "runs" / p.id), spec, evaluation)]
        jobs = [
            Job(p.id, carry_out, (folder.folder / "runs" / p.id, p.recipe, evaluation, spec.explanation))
            for p in left
        ]
        outcomes = tuple((executor or LocalProcesses()).run(jobs, listen))
        for outcome in outcomes:
            if outcome.error:
                _record(Run(folder.folder / "runs" / outcome.name), outcome)
        claims.write(folder.folder)
    names = {p.id for p in left}
    return StudyResult(folder, tuple(p.id for p in planned if p.id not in names), outcomes)


def carry_out(
    listen: Listener,
    folder: Path,
    recipe: Recipe,
    evaluation: EvaluationPlan,
    explanation: ExplanationPlan,
) -> None:
    """One run from data to explanation; each step is skipped where its result is there already.

    A network of the user's own code is trusted here: the study that names it has just run it.
    """
    splits = load_data(recipe)
    run_ = train(recipe, folder, splits=splits, progress=listen)
    evaluate_run(run_, evaluation, splits=splits, trust_code=True, progress=listen)
    threat = ThreatModel(evaluation.threat.norm, evaluation.threat.eps)
    explain_run(run_, explanation, threat, splits=splits, trust_code=True, progress=listen)
    run_.update_status(status="done", error=None)


def _is_done(run_: Run, spec: StudySpec, evaluation: EvaluationPlan) -> bool:
    plans = {"evaluation": evaluation, "explanation": spec.explanation}
    try:
        return _matches(run_, plans)
    except StateError:  # damaged: its worker will say so, and the other runs go on
        return False


def _matches(run_: Run, plans: Mapping[str, Plan]) -> bool:
    return run_.status["status"] == "done" and all(
        (run_.read_json(f"{name}{ending}") or {}).get("plan") == wanted.model_dump(mode="json")
        for name, plan_ in plans.items()
        for ending, wanted in plan_.of_checkpoints(run_.kept()).items()
    )


def _record(run_: Run, outcome: Outcome) -> None:
    """Note a failure that the worker could not note itself, a kill for instance."""
    error = {"type": "Failure", "message": outcome.error, "exit_code": outcome.exit_code}
    with contextlib.suppress(StateError):  # a damaged run.json is left for its owner to see
        if run_.status["status"] != "failed":
            run_.update_status(status="failed", error=error)


def _meta(spec: StudySpec, planned: Sequence[PlannedRun], evaluation: EvaluationPlan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": spec.name,
        "description": spec.description,
        "data": spec.data.model_dump(mode="json"),
        "model": spec.model.model_dump(mode="json"),
        "threat": spec.threat.model_dump(mode="json"),
        "seeds": list(spec.seeds),
        "strengths": sorted({p.recipe.threat.eps for p in planned}),
        "evaluation": evaluation.model_dump(mode="json"),
        "explanation": spec.explanation.model_dump(mode="json"),
        "runs": [p.entry() for p in planned],
    }
