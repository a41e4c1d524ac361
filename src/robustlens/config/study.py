"""Study files: methods x strengths x seeds, and what is done to every network."""

from typing import Any

from pydantic import Field

from robustlens.config.names import Name
from robustlens.config.plans import ExplanationPlan
from robustlens.config.recipe import DataSpec, ModelSpec, ThreatSpec
from robustlens.config.values import Values


class StudySpec(Values):
    """Content of a study file.

    `threat` is the evaluation's threat model and the default strength of every method. `defaults` and each
    method hold fields of a recipe (but `threat` and `seed`); a method also has a `label` and may list several
    `eps`.
    """

    name: Name
    description: str = ""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    threat: ThreatSpec = ThreatSpec()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    defaults: dict[str, Any] = Field(default_factory=dict)
    methods: tuple[dict[str, Any], ...] = Field(min_length=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    explanation: ExplanationPlan = ExplanationPlan()
