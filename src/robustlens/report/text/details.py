"""How everything was measured: recipes, runs, versions and the source of every measure."""

from collections.abc import Mapping
from typing import Any

from robustlens.report.data import Network, ReportData, combined, dig
from robustlens.report.text.wording import duration, flat
from robustlens.stats.intervals import Interval


def recipes(study: ReportData) -> tuple[dict[str, str], list[str], list[tuple[Network, dict[str, str]]]]:
    """What all recipes share, the names in which they differ, and these per network (its first seed)."""
    firsts = [(group, flat(group.records[0].recipe)) for group in study.groups if group.records[0].recipe]
    every = dict.fromkeys(key for _, values in firsts for key in values)
    # A part that only some recipes have ("awp") is told by its fields ("awp.gamma").
    keys = [key for key in every if not any(other.startswith(f"{key}.") for other in every)]
    differ = [key for key in keys if len({values.get(key, "") for _, values in firsts}) > 1 and key != "seed"]
    common = {key: firsts[0][1][key] for key in keys if key not in differ and key != "seed"} if firsts else {}
    return common, differ, firsts


def evaluation_plan(study: ReportData) -> dict[str, str]:
    """How the networks were attacked."""
    return flat(study.first("plan") or dig(study.meta, "evaluation") or {})


def sources(study: ReportData) -> list[dict[str, str]]:
    """Every measure: what it is, its unit, where it comes from, what it cost."""
    found: dict[str, dict[str, str]] = {}
    for record in study.records:
        for name, measure in (dig(record.explanation, "measures") or {}).items():
            if name not in found and isinstance(measure, Mapping):
                found[name] = {key: str(measure.get(key) or "") for key in ("what", "unit", "source")} | {
                    "name": str(name),
                    "seconds": _mean_seconds(study, name),
                }
    return list(found.values())


def runs(study: ReportData) -> list[dict[str, Any]]:
    """Every run: state, hashes, versions, times."""
    found = []
    for place, group in enumerate(study.groups):
        for record in group.records:
            facts = {
                "status": record.state,
                "error": record.error,
                "recipe hash": record.status.get("recipe_hash") or record.evaluation.get("recipe_hash"),
                "epochs": record.status.get("epochs_done"),
                "training": duration(record.status.get("train_seconds")),
                "evaluation": duration(record.evaluation.get("seconds")),
                "checkpoint": record.evaluation.get("checkpoint"),
                "folder": record.run.entry.get("folder"),
                **(dig(record.status, "environment") or {}),
            }
            shown = {key: str(value) for key, value in facts.items() if value not in (None, "")}
            found.append({"name": record.name, "look": place, "facts": shown, "recipe": flat(record.recipe)})
    return found


def versions(study: ReportData) -> str:
    """The versions that the runs were made with, in one line."""
    every: dict[str, dict[str, int]] = {}
    for record in study.records:
        for key, value in (dig(record.status, "environment") or {}).items():
            every.setdefault(str(key), {})[str(value)] = 0
    return "; ".join(f"{key} {', '.join(values)}" for key, values in every.items())


def _mean_seconds(study: ReportData, name: str) -> str:
    spent = combined(
        Interval(float(value))
        for record in study.records
        if isinstance(value := dig(record.explanation, "measures", name, "seconds"), int | float)
    )
    return duration(spent.value) if spent else ""
