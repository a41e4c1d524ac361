"""Study files: methods x strengths x seeds, and what is done to every network."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from robustlens.config.names import Name
from robustlens.config.plans import ExplanationPlan
from robustlens.config.recipe import DataSpec, ModelSpec, ThreatSpec
from robustlens.config.values import Values, norm_name


class StudySpec(Values):
    """Content of a study file.

    `threat` is the evaluation's threat model and the default strength of every method. What a threat in
    `evaluation` does not name is that of `threat`; in `explanation`, the evaluation's. `defaults` and each
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

    @field_validator("evaluation", "explanation", mode="before")
    @classmethod
    def _threat_is_laid_on_the_studys(cls, plan: Any, info: Any) -> Any:
        own = plan.get("threat") if isinstance(plan, Mapping) else None
        if not isinstance(own, Mapping) or "threat" not in info.data:
            return plan
        base = info.data["threat"].model_dump()
        of_evaluation = info.data.get("evaluation", {}).get("threat")
        base |= of_evaluation if isinstance(of_evaluation, Mapping) else {}
        if "eps" not in own and norm_name(own.get("norm", base["norm"])) != norm_name(base["norm"]):
            raise ValueError(
                f"threat.eps: found none beside norm {own['norm']}, expected a radius in that norm"
            )
        return {**plan, "threat": {**base, **own}}
