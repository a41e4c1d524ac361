"""Metadata of a model card, as the Hub reads them: licence, tags, data, and results with their conditions."""

from typing import Any

import yaml

from robustlens.config import Recipe, eps_text
from robustlens.config.names import names_path
from robustlens.data.hub import HUB_DATASETS
from robustlens.report.text.wording import attack_name, method_name, names, suite_name
from robustlens.results import EvaluationResult
from robustlens.results.values import plain

_TASK = "image-classification"


def front_matter(recipe: Recipe, evaluation: EvaluationResult | None, license_id: str | None) -> str:
    """YAML that the Hub reads before a card; a network without an evaluation has no metrics in it."""
    tags = ["robustlens", "adversarial-robustness", recipe.objective, *recipe.perturbations]
    tags += [recipe.threat.norm.lower()] if recipe.threat.eps > 0 else []
    entry: dict[str, Any] = {"license": license_id} if license_id else {}
    entry |= {"library_name": "robustlens", "pipeline_tag": _TASK, "tags": [_tag(tag) for tag in tags]}
    repository = _repository(recipe)
    entry |= {"datasets": [repository]} if repository else {}
    if evaluation is not None and "test" in evaluation.splits:
        dataset = {
            "type": repository or recipe.data.name.partition(":")[0],
            "name": data_name(recipe),
            "split": "test",
        }
        result = {"task": {"type": _TASK}, "dataset": dataset, "metrics": _metrics(evaluation)}
        name = f"{recipe.model.name} {method_name(recipe)} {recipe.hash()}"
        entry |= {"metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}
    return yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=10_000)


def _metrics(result: EvaluationResult) -> list[dict[str, Any]]:
    """Clean and robust accuracy on test images, in [0, 1], with what one has to know beside them."""
    test, threat = result.splits["test"], result.threat
    under = f"under {names(columns(result).values())}, {threat.norm} eps {eps_text(threat.eps)}"
    flags = [flag.name for flag in test.flags]
    attacked = {"norm": threat.norm, "eps": threat.eps, "attacks": list(result.attacks), "flags": flags}
    rows = [
        ("Clean accuracy", test.clean, {}),
        (f"Robust accuracy {under}", test.robust, attacked),
    ]
    return [
        {
            "type": "accuracy",
            "name": name + (" (flags are up)" if more.get("flags") else ""),
            "value": plain(interval.value),
            "args": {"n": test.n, "low_95": plain(interval.low), "high_95": plain(interval.high), **more},
        }
        for name, interval, more in rows
    ]


def _tag(word: str) -> str:
    return word.replace("_", "-").rpartition(":")[2]


def _repository(recipe: Recipe) -> str | None:
    """The Hub's name of the images; None where they are not there."""
    kind, _, name = recipe.data.name.partition(":")
    if kind == "hf":
        return name.partition("?")[0]
    return HUB_DATASETS[kind].repo if recipe.data.name in HUB_DATASETS else None


def data_name(recipe: Recipe) -> str:
    """The name of the images; of a path on somebody's machine its kind alone."""
    name = recipe.data.name
    return f"local files ({name.partition(':')[0]})" if names_path(name) else name


def columns(result: EvaluationResult) -> dict[str, str]:
    """Columns of a table of robust accuracies: key -> title."""
    return {name: suite_name(name) if name in result.suites else attack_name(name) for name in result.columns}
