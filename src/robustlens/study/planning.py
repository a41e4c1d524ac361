"""From a study file to the runs that it asks for, with everything refused that a later step would refuse."""

import importlib.resources
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustlens import attacks, data, explain, models, objectives
from robustlens.config import (
    AttackSpec,
    EvaluationPlan,
    ExplanationPlan,
    Recipe,
    StudySpec,
    ThreatSpec,
    checked,
    eps_text,
    name_problem,
    read_yaml,
    refuse_code,
)
from robustlens.config.names import slug
from robustlens.data import augment
from robustlens.errors import ConfigError
from robustlens.explain.bound.covering import FEWEST_POINTS
from robustlens.results import RunEntry, StudyRecord
from robustlens.training.checks import check_optimizer

_BUILT_IN = importlib.resources.files("robustlens") / "study" / "built_in"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its folder's name, its recipe, and how reports call it."""

    id: str
    recipe: Recipe
    label: str
    method: str

    def entry(self) -> RunEntry:
        """This run in `study.json`."""
        recipe = self.recipe
        return RunEntry(
            id=self.id,
            folder=f"runs/{self.id}",
            label=self.label,
            method=self.method,
            objective=recipe.objective,
            perturbation=next(iter(recipe.perturbations), None),
            from_attack=bool(getattr(recipe.perturbation, "from_attack", False)),
            eps=recipe.threat.eps,
            seed=recipe.seed,
            unperturbed=recipe.unperturbed.hash(),
            setting=_setting(recipe),
            perturbation_options={}
            if recipe.perturbation is None
            else recipe.perturbation.model_dump(mode="json"),
            capacity={} if recipe.capacity is None else recipe.capacity.model_dump(mode="json"),
            unbounded=recipe.model_copy(update={"capacity": None}).hash(),
            objective_options=recipe.objective_options,
        )


def built_in() -> list[str]:
    """Names of the studies that come with the package."""
    names = (file.name for file in _BUILT_IN.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read(source: str | Path, *, trust_code: bool = False) -> StudySpec:
    """A study from a YAML file or by the name of a built-in one.

    Args:
        source: the file, or the name.
        trust_code: allow the file to name code ("package.module:factory"), which its runs import and call.

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
    refuse_code(values, Path(source).name, trust_code=trust_code)
    return checked(StudySpec, values, Path(source).name)


def evaluation_plan(spec: StudySpec) -> EvaluationPlan:
    """The evaluation of every run, at the study's threat unless it names its own."""
    values = {"threat": spec.threat.model_dump(), **spec.evaluation}
    if isinstance(values.get("attacks"), str | list | tuple):
        values["attacks"] = attacks.names(values["attacks"])
    return checked(EvaluationPlan, values, "evaluation")


def explanation_plan(spec: StudySpec) -> ExplanationPlan:
    """The explanation of every run, at the evaluation's threat unless it names its own."""
    if "threat" in spec.explanation.model_fields_set:
        return spec.explanation
    return spec.explanation.model_copy(update={"threat": evaluation_plan(spec).threat})


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
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"{spec.name}: two runs are called {twice[0]!r}; give the methods different labels")
    _check_names(spec, planned)
    return planned


def record(spec: StudySpec, planned: Sequence[PlannedRun]) -> StudyRecord:
    """The content of `study.json`."""
    return StudyRecord(
        name=spec.name,
        description=spec.description,
        data=spec.data.model_dump(mode="json"),
        model=spec.model.model_dump(mode="json"),
        threat=spec.threat.model_dump(mode="json"),
        seeds=spec.seeds,
        strengths=tuple(sorted({run.recipe.threat.eps for run in planned})),
        evaluation=evaluation_plan(spec).model_dump(mode="json"),
        explanation=explanation_plan(spec).model_dump(mode="json"),
        runs=_entries(planned),
    )


def _entries(planned: Sequence[PlannedRun]) -> tuple[RunEntry, ...]:
    """The runs in `study.json`.

    Standard training has no use for its attack: where no other run has its setting, it takes that of the
    adversarially trained runs that differ in the attack alone, if they agree on one.
    """
    attacked = [run.recipe for run in planned if run.recipe.objective != "standard"]
    taken = {_setting(recipe) for recipe in attacked}
    alike: dict[str, set[str]] = {}
    for recipe in attacked:
        alike.setdefault(_setting(recipe, attack=AttackSpec()), set()).add(_setting(recipe))
    entries = []
    for run in planned:
        entry, others = run.entry(), alike.get(_setting(run.recipe, attack=AttackSpec()), set())
        alone = run.recipe.objective == "standard" and entry.setting not in taken
        entries.append(replace(entry, setting=min(others)) if alone and len(others) == 1 else entry)
    return tuple(entries)


def _setting(recipe: Recipe, **without: AttackSpec) -> str:
    """Hash of what strengths are compared within: all but objective, strength, perturbation and seed."""
    compared = {"objective": "at", "objective_options": {}, "threat": ThreatSpec(), "seed": 0}
    return recipe.unperturbed.model_copy(update={**compared, **without}).hash()


def _check_names(spec: StudySpec, planned: Sequence[PlannedRun]) -> None:
    """Refuse before the first epoch what only a later step would look up."""
    attacks.names(evaluation_plan(spec).attacks)
    for name in {*spec.explanation.measures, *spec.explanation.options}:
        where = f"explanation.options.{name}"
        explain.MEASURES.checked(name, spec.explanation.options.get(name, {}), where)
    if "bound" in spec.explanation.measures:
        _check_bound(explanation_plan(spec))
    recipes = {run.recipe.model_copy(update={"seed": 0}).hash(): run.recipe for run in planned}
    for recipe in recipes.values():
        models.check(recipe.model.name, recipe.model.options)
        data.check_name(recipe.data.name)
        check_optimizer(recipe.optimizer)
        if recipe.pseudo_labels is not None:
            check_optimizer(recipe.pseudo_labels.teacher)
        if recipe.data.augment != "auto":
            augment.get(recipe.data.augment)
        _check_checkpoints(spec, recipe)


def _check_bound(explanation: ExplanationPlan) -> None:
    """Refuse a bound without balls to cover the images with, or of too few images to count them."""
    if explanation.threat.eps == 0 and explanation.options.get("bound", {}).get("eps") is None:
        raise ConfigError(
            "explanation.options.bound.eps: found none and a threat of eps 0, expected a radius > 0"
        )
    if explanation.examples < FEWEST_POINTS:
        raise ConfigError(
            f"explanation.examples: found {explanation.examples}, expected at least {FEWEST_POINTS} "
            "for the measure bound"
        )


def _check_checkpoints(spec: StudySpec, recipe: Recipe) -> None:
    """Refuse a plan for the weights of an epoch that a run will not have kept."""
    for where, one in (("evaluation", evaluation_plan(spec)), ("explanation", spec.explanation)):
        for checkpoint in one.checkpoints():
            epoch, every, last = checkpoint.epoch, recipe.keep_every, recipe.optimizer.epochs
            if epoch is not None and (every is None or epoch < 1 or epoch % every or epoch > last):
                kept = (
                    "keep_every is not given" if every is None else f"keep_every is {every} of {last} epochs"
                )
                raise ConfigError(
                    f"{spec.name}: {where}.checkpoint: found {checkpoint}, which no run keeps: {kept}"
                )


def _fields(spec: StudySpec, method: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe fields of a method: its own laid on the defaults, laid on data and model of the study."""
    for where, values in (("defaults", spec.defaults), ("methods", method)):
        for field, instead in (("threat", "eps, and the study's threat"), ("seed", "the study's seeds")):
            if field in values:
                raise ConfigError(f"{spec.name}: {where}.{field}: is no field here; use {instead}")
    base = {
        "data": {**spec.data.model_dump(), "data_dir": spec.data.data_dir},
        "model": spec.model.model_dump(),
    }
    where = f"{spec.name}: "
    return {"objective": "at"} | _merged(base, _merged(spec.defaults, method, where), where)


def _strengths(spec: StudySpec, method: Mapping[str, Any]) -> Sequence[Any]:
    fields = _fields(spec, method)
    objective = fields["objective"]
    if not isinstance(objective, str):
        raise ConfigError(f"{spec.name}: objective: found {objective!r}, expected the name of one")
    if objectives.get(objective).inner_attack is None:
        return [0.0]
    eps = fields.get("eps", spec.threat.eps)
    if isinstance(eps, list | tuple) and not eps:
        raise ConfigError(f"{spec.name}: eps: found none, expected at least one strength")
    return eps if isinstance(eps, list | tuple) else [eps]


def _planned(spec: StudySpec, method: Mapping[str, Any], eps: Any, seed: int) -> PlannedRun:
    fields = _fields(spec, method)
    name = fields.pop("label", fields["objective"])
    if not isinstance(name, str):
        raise ConfigError(f"{spec.name}: label: found {name!r}, expected text; put it in quotes")
    fields |= {"threat": {"norm": spec.threat.norm, "eps": eps}, "seed": seed}
    fields.pop("eps", None)
    recipe = checked(Recipe, fields, f"{spec.name}: method {name!r}")
    objectives.get(recipe.objective, **recipe.objective_options)
    strength = eps_text(recipe.threat.eps)
    several = len(_strengths(spec, method)) > 1
    problem = name_problem(name) or (
        None if slug(name) else f"found {name!r}, expected a letter from a to z, or a digit, in it"
    )
    if problem:
        raise ConfigError(f"{spec.name}: label: {problem}")
    return PlannedRun(
        id=f"{slug(name)}-{strength.replace('/', '_')}-s{seed}",
        recipe=recipe,
        label=f"{name} {strength}" if several else name,
        method=name,
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`over` laid on `base`, mappings inside merged in turn; messages begin with `where`.

    Raises:
        ConfigError: a mapping is laid on what is none, which would be lost.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and below is not None:
            if not isinstance(below, Mapping):
                raise ConfigError(
                    f"{where}{key}: found {value!r} laid on {below!r}, expected two mappings or none"
                )
            value = _merged(below, value, f"{where}{key}.")
        merged[key] = value
    return merged
