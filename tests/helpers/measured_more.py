"""Adds to a made study what no default plan measures: Jacobian, bound, planes, flatness, curvature."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robustlens.config import LAST, Checkpoint
from robustlens.results import (
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Run,
    Stage,
    StageResult,
    StudyFolder,
)
from robustlens.stats.intervals import wilson

GRID = np.linspace(-1, 1, 5)
GRADIENTS = ("gini", "contrast", "foreground")


def measure_more(folder: Path) -> Path:
    """Add every other measure, certificates and two checkpoints beside the best to every run; returns the folder."""
    runs = StudyFolder(folder).runs()
    labels = list(dict.fromkeys(run.entry.label for run in runs if run.entry))
    for run in runs:
        assert run.entry is not None
        extend_explanation(run, measurements(labels.index(run.entry.label)))
        evaluation, explanation = certify(run), run.explanation()
        assert explanation is not None
        for checkpoint in (Checkpoint("epoch", 1), LAST):
            write_beside(run, "evaluation", evaluation, checkpoint)
            write_beside(run, "explanation", explanation, checkpoint)
    return folder


def certify(run: Run) -> EvaluationResult:
    """Add certificates of a tenth of the images to a run's evaluation."""
    evaluation = run.evaluation()
    assert evaluation is not None
    splits = {
        name: replace(split, certified={"crown": wilson(split.n // 10, split.n)})
        for name, split in evaluation.splits.items()
    }
    certified = replace(evaluation, splits=splits)
    run.write("evaluation", certified)
    return certified


def write_beside(run: Run, stage: Stage, result: StageResult, checkpoint: Checkpoint) -> None:
    """Write a result as that of a checkpoint beside the primary one."""
    provenance = replace(result.provenance, checkpoint=checkpoint)
    run.write(stage, replace(result, provenance=provenance), checkpoint)


def extend_explanation(run: Run, added: dict[str, Measurement]) -> ExplanationResult:
    """Add measures to a run's explanation; a measure that is there keeps its values and gets more arrays."""
    explanation = run.explanation()
    assert explanation is not None
    measures = dict(explanation.measures)
    for name, measurement in added.items():
        if name in measures:
            measurement = replace(measures[name], arrays={**measures[name].arrays, **measurement.arrays})
        measures[name] = measurement
    extended = replace(explanation, measures=measures)
    run.write("explanation", extended)
    return extended


def made(value: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> Measurement:
    """A measurement of which only the numbers and the arrays matter."""
    return Measurement(value, "nats", "Made for a test.", "nowhere", seconds=1.5, arrays=arrays or {})


def measurements(place: int) -> dict[str, Measurement]:
    """Measures of the network at `place` of the study."""
    rises = {"loss": 0.5 + place, "matched": 0.4 + place, "error": 0.1}
    bowl = 1.0 + place + GRID[:, None] ** 2 + 0.5 * GRID[None, :] ** 2
    planes = {f"test_plane_{kind}": bowl for kind in ("loss", "matched", "error")}
    around = {f"test_input_{kind}": bowl for kind in ("loss", "error")}
    singular_values = np.linspace(1, 3 + place, 12).reshape(6, 2)[:, ::-1]
    return {
        "jacobian": made({"examples": 2}, {"test_singular_values": singular_values}),
        "bound": _bound(place),
        "flatness": made({"average": rises, "worst": rises}),
        "curvature": _curvature(place),
        "gradients": made({}, {f"test_{key}": np.linspace(0, place + 1, 30) for key in GRADIENTS}),
        "sharpness": _sharpness(place),
        "landscape": made({}, {"plane_alpha": GRID, "input_radius": GRID, **planes, **around}),
    }


def _bound(place: int) -> Measurement:
    fails = {"fails": 0.01 * place}
    split = {"assumption_3_1_fails": {"paths": 0.05}, "stretch": {"at_x": fails, "on_the_way": fails}}
    row = {"gamma": 1.0, "vacuous": True, "because": ["margin", "covering"], "ramp_gap": 0.02 * place}
    terms = {"sigma_product": -4.0 - place, "distance": 0.1, "v_min": -1.0, "u_min": -5.0 - place}
    value = {
        "log10": {**terms, "complexity_term": 12.0},
        "gammas": [row],
        "covering": {"dimension": 9.0, "two_nn": 20.0},
        "test": split,
        "train": split,
    }
    distances = {"test_upper": np.linspace(0, 1 + place, 30), "train_upper": np.linspace(0, 2 + place, 30)}
    return made(value, distances)


def _sharpness(place: int) -> Measurement:
    """Confidence 0.6 and 0.8 at the two radii, and sharpness 2 and 1 over 4 and 3, one more with each place."""
    value = {
        "0.05": {"sharpness": 2.0 + place, "clean_sharpness": 4.0, "confidence": 0.6},
        "0.1": {"sharpness": 1.0 + place, "clean_sharpness": 3.0, "confidence": 0.8},
    }
    return made(value, {"radius": np.array([0.0, 0.05, 0.1])})


def _curvature(place: int) -> Measurement:
    numbers = {"top_eigenvalue": 20.0 - place, "trace": 300.0 - place}
    arrays = {}
    for prefix in ("", "relative_"):
        arrays[f"test_{prefix}nodes"] = np.array([[0.0, 20.0 - place]])
        arrays[f"test_{prefix}weights"] = np.array([[0.9, 0.1]])
    return made({**numbers, **{f"relative_{name}": value for name, value in numbers.items()}}, arrays)
