"""The evaluation of a run folder's checkpoint, and of any model on training and test images."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from robustlens import models
from robustlens.config import EvaluationPlan, ExplanationPlan
from robustlens.data import Splits
from robustlens.errors import StateError
from robustlens.evaluation.evaluate import evaluate
from robustlens.evaluation.evaluation import Evaluation, gaps
from robustlens.progress import Event, Listener, silent
from robustlens.results.folders import FORMAT, Run, locked
from robustlens.threat import ThreatModel
from robustlens.training.trainer import load_data
from robustlens.version import __version__

_UNFINISHED = "evaluation.state"


def evaluate_run(
    run: Run,
    plan: EvaluationPlan,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    progress: Listener = silent,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint on training and test images with the same attacks, and save the result.

    `trust_code` allows a network that its recipe names as "package.module:factory" to be imported.

    Writes `evaluation.json`, `evaluation.safetensors` and, if the plan says so, `adversarial.safetensors`;
    returns the first. An evaluation of the same plan and weights that is there already is returned as it is;
    one that was stopped goes on. With the checkpoint "both", the last one's evaluation is written beside it,
    `evaluation-last.json` and so on; with "every", the kept epochs' too, `evaluation-epoch-0010.json`.
    Those of another plan are removed: they would be taken for this one's.
    """
    splits = splits or load_data(run.recipe)
    content: dict[str, Any] = {}
    for ending, one in reversed(plan.of_checkpoints(run.kept()).items()):
        known = provenance(run, one, splits)
        found = run.read_json(f"evaluation{ending}")
        if is_current(found, known):
            content = found
        else:
            model = models.load(run.folder, checkpoint=one.checkpoint, trust_code=trust_code)
            content = _evaluate_into(run, model, splits, one, known, progress, ending)
    run.drop_outdated("evaluation")
    return content


def evaluate_model(
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    folder: Path,
    *,
    progress: Listener = silent,
) -> dict[str, Any]:
    """Evaluate any model, and save the result in `folder` as `evaluate_run` does in a run's.

    Raises:
        StateError: the folder holds the evaluation of another model, data or plan.
    """
    run = Run(folder)
    known = {
        "model": models.fingerprint(model),
        "plan": plan.model_dump(mode="json"),
        "data": splits.fingerprint,
        "version": __version__,
    }
    found = run.evaluation
    if is_current(found, known):
        return found
    if found is not None:
        other = next(key for key, value in known.items() if found.get(key) != value)
        raise StateError(f"{folder}/evaluation.json: belongs to another {other}; choose another --out")
    return _evaluate_into(run, model, splits, plan, known, progress)


def evaluate_splits(
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    *,
    state: Path | None = None,
    progress: Listener = silent,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Evaluate on training and test images with the same attacks.

    Returns what `evaluation.json`, `evaluation.safetensors` and `adversarial.safetensors` keep; the last is
    empty unless the plan asks for it. `state` is a folder for progress, as for `evaluate`.
    """
    began = perf_counter()
    threat = ThreatModel(plan.threat.norm, plan.threat.eps)
    parts = {"test": (splits.test, plan.test_examples), "train": (splits.train, plan.train_examples)}
    found: dict[str, Evaluation] = {}
    arrays: dict[str, np.ndarray] = {}
    adversarial: dict[str, np.ndarray] = {}
    for name, (split, examples) in parts.items():
        part = split.take(min(examples or len(split), len(split)), plan.seed)
        found[name] = evaluate(
            model,
            part.x(),
            part.labels,
            threat,
            plan.attacks,
            restarts=plan.restarts,
            curve=plan.curve,
            batch_size=plan.batch_size,
            precision=plan.precision,
            seed=plan.seed,
            state=None if state is None else state / name,
            save_adversarial=plan.save_adversarial,
            progress=_within(progress, name),
        )
        arrays |= {f"{name}/{key}": array for key, array in found[name].arrays().items()}
        arrays[f"{name}/index"] = part.index.numpy()
        if found[name].x_adv is not None:
            adversarial |= _adversarial(name, found[name], part.index)
    content = {
        "format": FORMAT,
        "threat": asdict(threat),
        "attacks": list(found["test"].by_attack),
        "suites": {name: list(names) for name, names in found["test"].suites.items()},
        "splits": {name: evaluation.summary() for name, evaluation in found.items()},
        "gaps": gaps(found["train"], found["test"]),
        "seconds": perf_counter() - began,
    }
    return content, arrays, adversarial


def provenance(run: Run, plan: EvaluationPlan | ExplanationPlan, splits: Splits) -> dict[str, Any]:
    """What a result was computed from: recipe, plan, the very weights and images, and our version."""
    return {
        "recipe_hash": run.recipe.hash(),
        "weights": hashlib.sha256(run.weights(plan.checkpoint)).hexdigest()[:16],
        "checkpoint": plan.checkpoint,
        "plan": plan.model_dump(mode="json"),
        "data": splits.fingerprint,
        "version": __version__,
    }


def is_current(found: dict[str, Any] | None, known: Mapping[str, Any]) -> TypeGuard[dict[str, Any]]:
    """Whether a saved result has exactly this provenance."""
    as_saved = json.loads(json.dumps(known))  # JSON has lists for tuples
    return found is not None and all(found.get(key) == value for key, value in as_saved.items())


def _evaluate_into(
    run: Run,
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    known: Mapping[str, Any],
    progress: Listener,
    ending: str = "",
) -> dict[str, Any]:
    """Evaluate, and write the files. Progress is kept beside them until they are there."""
    state = run.folder / f"{_UNFINISHED}{ending}"
    with locked(run.folder):
        content, arrays, adversarial = evaluate_splits(model, splits, plan, state=state, progress=progress)
        if adversarial:
            run.write_arrays(f"adversarial{ending}", adversarial)
        run.write_result(f"evaluation{ending}", {**known, **content}, arrays)
        shutil.rmtree(state, ignore_errors=True)
    return {**known, **content}


def _adversarial(split: str, found: Evaluation, index: torch.Tensor) -> dict[str, np.ndarray]:
    """The images that broke the model, and which of the data set they were."""
    fallen = found.clean & ~found.robust
    assert found.x_adv is not None
    return {
        f"{split}/x_adv": found.x_adv[fallen].numpy(),
        f"{split}/index": index[fallen].numpy(),
        f"{split}/labels": found.labels[fallen].numpy(),
    }


def _within(listen: Listener, split: str) -> Listener:
    return lambda event: listen(Event(f"{split} {event.phase}", event.done, event.total, event.note))
