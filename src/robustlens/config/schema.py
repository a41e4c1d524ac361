"""JSON Schema of recipe and study files, for editors that complete and check YAML.

A schema knows names, types and ranges. What a field's value means, and whether two fields go together, is
checked when the file is read.
"""

from typing import Any

from robustlens.config.plans import EvaluationPlan
from robustlens.config.recipe import Recipe
from robustlens.config.study import StudySpec

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file."""
    return {"$schema": DRAFT, **Recipe.model_json_schema()}


def study_schema() -> dict[str, Any]:
    """JSON Schema of a study file: `defaults` and each method hold fields of a recipe."""
    schema, recipe, evaluation = (kind.model_json_schema() for kind in (StudySpec, Recipe, EvaluationPlan))
    definitions = {**recipe.pop("$defs", {}), **evaluation.pop("$defs", {}), **schema.pop("$defs", {})}
    fields = {name: value for name, value in recipe["properties"].items() if name not in ("threat", "seed")}
    number = definitions["ThreatSpec"]["properties"]["eps"]
    strength = {key: value for key, value in number.items() if key not in ("default", "title")}
    fields["eps"] = {
        "anyOf": [strength, {"type": "array", "items": strength, "minItems": 1}],
        "description": "Strengths of training; the study's threat where there is none.",
    }
    fields["label"] = {"type": "string", "description": "The method's name in the report."}
    definitions["MethodFields"] = {"type": "object", "properties": fields, "additionalProperties": False}
    definitions["EvaluationFields"] = evaluation
    properties = schema["properties"]
    properties["methods"]["items"] = {"$ref": "#/$defs/MethodFields"}
    properties["defaults"] = {**properties["defaults"], "$ref": "#/$defs/MethodFields"}
    properties["evaluation"] = {**properties["evaluation"], "$ref": "#/$defs/EvaluationFields"}
    for name in ("defaults", "evaluation"):
        properties[name].pop("additionalProperties", None)
    return {"$schema": DRAFT, **schema, "$defs": definitions}
