"""Method of everything that was measured: recipes, runs, versions and the source of every measure."""

from typing import Any

from robustlens.report.data import Network, ReportData, RunReport, known
from robustlens.report.text.wording import duration, flat
from robustlens.results import Measurement
from robustlens.stats.intervals import Interval, over_seeds


def recipes(data: ReportData) -> tuple[dict[str, str], list[str], list[tuple[Network, dict[str, str]]]]:
    """Fields that all recipes share, names in which they differ, and all fields per network (first seed)."""
    firsts = [(network, recipe(network.runs[0])) for network in data.networks if network.runs[0].recipe]
    every = dict.fromkeys(key for _, values in firsts for key in values)
    # A part that only some recipes have ("awp") is shown by its fields ("awp.gamma").
    keys = [key for key in every if not any(other.startswith(f"{key}.") for other in every)]
    differ = [key for key in keys if len({values.get(key, "") for _, values in firsts}) > 1 and key != "seed"]
    common = {key: firsts[0][1][key] for key in keys if key not in differ and key != "seed"} if firsts else {}
    return common, differ, firsts


def evaluation_plan(data: ReportData) -> dict[str, str]:
    """Plan of the evaluations, field by field."""
    return flat(data.first(lambda evaluation: evaluation.provenance.plan) or data.study.evaluation)


def sources(data: ReportData) -> dict[str, Measurement]:
    """Every measure of the runs, as the first run that has it describes it."""
    every: dict[str, Measurement] = {}
    for run in data.runs:
        for name, measure in (run.explanation.measures if run.explanation else {}).items():
            every.setdefault(name, measure)
    return every


def versions(data: ReportData) -> str:
    """The versions that the runs were made with, in one line."""
    every: dict[str, dict[str, None]] = {}
    for run in data.runs:
        for key, value in run.record.environment.items():
            every.setdefault(key, {})[value] = None
    return "; ".join(f"{key} {', '.join(values)}" for key, values in every.items())


def recipe(run: RunReport) -> dict[str, str]:
    """The fields that the recipe's file holds; a field that is newer than the file is left out."""
    return flat(run.recipe.model_dump(mode="json", exclude_unset=True)) if run.recipe else {}


def facts(run: RunReport) -> dict[str, str]:
    """State, hash, versions and times of one run."""
    record, evaluation, entry = run.record, run.evaluation, run.source.entry
    provenance = evaluation.provenance if evaluation else None
    values: dict[str, Any] = {
        "status": record.status,
        "error": run.error,
        "recipe hash": record.recipe_hash or (provenance and provenance.recipe),
        "epochs": record.epochs_done,
        "training": duration(record.train_seconds or None),
        "evaluation": duration(evaluation.seconds or None) if evaluation else "",
        "checkpoint": provenance and provenance.checkpoint,
        "folder": entry and entry.folder,
        **record.environment,
    }
    return {key: str(value) for key, value in values.items() if value}


def mean_seconds(data: ReportData, name: str) -> str:
    """Time that a measure took, over runs."""
    measurements = (run.explanation.measures.get(name) for run in data.runs if run.explanation)
    spent = over_seeds(known(Interval(one.seconds)) for one in measurements if one and one.seconds)
    return duration(spent.value) if spent else ""
