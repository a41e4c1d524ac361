"""Results of the stages: typed, sealed documents in run and study folders. No torch.

`values` and the documents (`evaluation`, `explanation`, `run`, `study`) say what there is, `files` how it is
written, sealed and read, `upgrade` what older formats become, `run_folder` and `study_folder` where it lies.
"""

from robustlens.results.evaluation import CurvePoint, EvaluationResult, ReplacedLayer, SplitResult
from robustlens.results.explanation import ExplanationResult, Measurement
from robustlens.results.run import EpochRecord, ErrorRecord, MonitorRecord, PseudoLabelRecord, RunRecord
from robustlens.results.run_folder import Run
from robustlens.results.stage_files import Stage, StageResult
from robustlens.results.study import (
    DECIDING_SEEDS,
    DESCRIBED,
    ClaimResult,
    ClaimValue,
    Decision,
    Effect,
    RunEntry,
    Statistic,
    StudyRecord,
    Verdict,
    standard_networks,
)
from robustlens.results.study_folder import StudyFolder
from robustlens.results.values import Flag, Provenance, ThreatRecord
from robustlens.results.verify import FileCheck, verify

__all__ = [
    "DECIDING_SEEDS",
    "DESCRIBED",
    "ClaimResult",
    "ClaimValue",
    "CurvePoint",
    "Decision",
    "Effect",
    "EpochRecord",
    "ErrorRecord",
    "EvaluationResult",
    "ExplanationResult",
    "FileCheck",
    "Flag",
    "Measurement",
    "MonitorRecord",
    "Provenance",
    "PseudoLabelRecord",
    "ReplacedLayer",
    "Run",
    "RunEntry",
    "RunRecord",
    "SplitResult",
    "Stage",
    "StageResult",
    "Statistic",
    "StudyFolder",
    "StudyRecord",
    "ThreatRecord",
    "Verdict",
    "standard_networks",
    "verify",
]
