"""Recipes, plans and studies as people write them: frozen, checked and hashed. No torch."""

from robustlens.config.checkpoint import BEST, LAST, Checkpoint
from robustlens.config.names import in_unicode, name_problem, refuse_code
from robustlens.config.optimizer import OptimizerSpec
from robustlens.config.plans import EvaluationPlan, ExplanationPlan, Plan
from robustlens.config.recipe import (
    AttackSpec,
    AWPSpec,
    CapacitySpec,
    DataSpec,
    FactoryPerturbationSpec,
    InitSpec,
    ModelSpec,
    MonitorSpec,
    PerturbationSpec,
    PseudoLabelSpec,
    Recipe,
    RWPSpec,
    SAMSpec,
    ThreatSpec,
)
from robustlens.config.study import StudySpec
from robustlens.config.values import (
    Count,
    Number,
    checked,
    eps_text,
    norm_name,
    radius_problem,
    widest_radius,
)
from robustlens.config.yaml_files import parsed_yaml, read_yaml

__all__ = [
    "BEST",
    "LAST",
    "AWPSpec",
    "AttackSpec",
    "CapacitySpec",
    "Checkpoint",
    "Count",
    "DataSpec",
    "EvaluationPlan",
    "ExplanationPlan",
    "FactoryPerturbationSpec",
    "InitSpec",
    "ModelSpec",
    "MonitorSpec",
    "Number",
    "OptimizerSpec",
    "PerturbationSpec",
    "Plan",
    "PseudoLabelSpec",
    "RWPSpec",
    "Recipe",
    "SAMSpec",
    "StudySpec",
    "ThreatSpec",
    "checked",
    "eps_text",
    "in_unicode",
    "name_problem",
    "norm_name",
    "parsed_yaml",
    "radius_problem",
    "read_yaml",
    "refuse_code",
    "widest_radius",
]
