"""JSON Schemas: files that are read fit them, mistakes do not, and those in docs/schema are today's."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from robustlens.config import Recipe
from robustlens.config.schema import recipe_schema, study_schema
from robustlens.report.results_document import results_schema

ROOT = Path(__file__).resolve().parents[2]
STUDIES = [
    *sorted((ROOT / "examples").glob("*.yaml")),
    *sorted((ROOT / "src").glob("robustlens/study/built_in/*.yaml")),
]


def problems(schema: dict[str, Any], content: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


@pytest.mark.parametrize("schema", [recipe_schema(), study_schema(), results_schema()])
def test_schemas_are_schemas(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("name", "schema"),
    [("recipe", recipe_schema()), ("study", study_schema()), ("results", results_schema())],
)
def test_the_published_files_are_what_the_command_prints(name: str, schema: dict[str, Any]) -> None:
    """After a change of a recipe's fields: robustlens schema recipe > docs/schema/recipe.json, and so on."""
    assert json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text(encoding="utf-8")) == schema


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_our_study_files_fit(path: Path) -> None:
    assert problems(study_schema(), yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_a_recipe_as_a_file_keeps_it_fits() -> None:
    recipe = Recipe.model_validate(
        {"objective": "trades", "awp": {"gamma": 0.005}, "threat": {"norm": "L2", "eps": "128/255"}}
    )
    assert problems(recipe_schema(), recipe.model_dump(mode="json")) == []
    assert problems(recipe_schema(), {"threat": {"eps": "8/255"}}) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"threat": {"eps": "eight"}}, "'eight' is not valid under any of the given schemas"),
        ({"objektive": "at"}, "Additional properties are not allowed ('objektive' was unexpected)"),
        ({"seed": "one"}, "'one' is not of type 'integer'"),
    ],
)
def test_mistakes_in_a_recipe_do_not_fit(content: dict[str, Any], message: str) -> None:
    assert problems(recipe_schema(), content) == [message]


def test_mistakes_in_a_method_do_not_fit() -> None:
    study = {"name": "s", "methods": [{"label": "AT", "objective": "at", "eps": ["8/255", 0.1]}]}
    assert problems(study_schema(), study) == []
    (problem,) = problems(study_schema(), {"name": "s", "methods": [{"epsilon": 0.1}]})
    assert problem.startswith("Additional properties are not allowed ('epsilon'")
