"""The evaluation of a run's checkpoints, and of any model on training and test images."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustlens import data, machine, models
from robustlens.config import Checkpoint, EvaluationPlan
from robustlens.data import Split, Splits
from robustlens.evaluation.evaluation import Evaluation, gaps
from robustlens.evaluation.images import attack_shard, evaluate
from robustlens.evaluation.shards import Shard, block_count
from robustlens.progress import Listener, of_part, silent
from robustlens.results import EvaluationResult, Provenance, Run
from robustlens.results.locks import locked
from robustlens.threat import ThreatModel


def evaluate_run(
    run: Run,
    plan: EvaluationPlan,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    device: str = "auto",
    progress: Listener = silent,
) -> EvaluationResult:
    """Evaluate a run's checkpoints on training and test images with the same attacks, and save the results.

    Writes `evaluation.json`, `evaluation.safetensors` and, if the plan says so, `adversarial.safetensors`;
    returns the first. An evaluation of the same plan and weights that is there already is returned as it is;
    one that was stopped goes on. With the checkpoint "both", the last one's evaluation is written beside it,
    `evaluation-last.json` and so on; with "every", the kept epochs' too, `evaluation-epoch-0010.json`.
    Those of another plan are removed: they would be taken for this one's.

    Args:
        run: a run that is trained.
        plan: how its checkpoints are attacked.
        splits: the data of its recipe where the caller has loaded it already.
        trust_code: allow a network that its recipe names as "package.module:factory" to be imported.
        device: "auto" (CUDA where there is a device), "cpu", "cuda" or "cuda:1".
        progress: hears an event after every batch. The phases of other checkpoints begin with their name.

    Raises:
        ResourceError: there is no such device.
        StateError: the images are not those of the run, or a file of the run is damaged.
        LockedError: another process trains, evaluates or explains this run.
    """
    on = machine.device(device)
    splits = data.of_run(run, splits, trust_code=trust_code)
    for other, one in run.missing("evaluation", plan):
        model = models.load(run.folder, checkpoint=one.checkpoint, trust_code=trust_code)
        _evaluate_into(run, model.to(on), splits, one, run.expected(one), progress, other)
    run.remove_stale("evaluation")
    result = run.evaluation()
    assert result is not None
    return result


def evaluate_model(
    model: nn.Module, splits: Splits, plan: EvaluationPlan, folder: Path, *, progress: Listener = silent
) -> EvaluationResult:
    """Evaluate any model, and save the result in `folder` as `evaluate_run` does in a run's.

    Raises:
        StateError: the folder is that of a run, or holds the evaluation of another model, data or plan.
    """
    run = Run(folder)
    run.files("evaluation").check_no_run()
    expected = Provenance.of_model(models.fingerprint(model), splits.fingerprint, plan)
    saved = run.evaluation()
    if saved is None:
        return _evaluate_into(run, model, splits, plan, expected, progress)
    run.files("evaluation").check_source(saved.provenance, expected)
    return saved


def evaluate_splits(
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    *,
    state: Path | None = None,
    progress: Listener = silent,
) -> tuple[EvaluationResult, dict[str, np.ndarray]]:
    """Evaluate on training and test images with the same attacks.

    Returns the result, and the arrays that `adversarial.safetensors` keeps, which are empty unless the plan
    asks for them. `state` is a folder for progress, as for `evaluate`.
    """
    began = perf_counter()
    threat = ThreatModel.of(plan.threat)
    evaluations: dict[str, Evaluation] = {}
    results = {}
    adversarial: dict[str, np.ndarray] = {}
    for name, part in parts_of(splits, plan).items():
        folder, listen = None if state is None else state / name, of_part(progress, name)
        evaluations[name] = evaluate(
            model,
            data.readable(part),
            part.labels,
            threat,
            **_settings(plan),
            certify=plan.certify,
            state=folder,
            progress=listen,
        )
        numbers = evaluations[name].result()
        results[name] = replace(numbers, arrays={**numbers.arrays, "index": part.index.numpy()})
        adversarial |= _adversarial(name, evaluations[name], part.index)
    results["test"] = replace(results["test"], notes=(*data.sanity_warnings(splits), *results["test"].notes))
    result = EvaluationResult(
        provenance=Provenance.of_model(models.fingerprint(model), splits.fingerprint, plan),
        threat=threat.record(),
        attacks=tuple(results["test"].by_attack),
        splits=results,
        gaps=gaps(results["train"], results["test"]),
        suites=evaluations["test"].suites,
        # Attacks count their time in every sitting and process; this one may only put their work together.
        seconds=max(perf_counter() - began, sum(sum(split.seconds.values()) for split in results.values())),
    )
    return result, adversarial


def parts_of(splits: Splits, plan: EvaluationPlan) -> dict[str, Split]:
    """The images that a plan attacks, by split."""
    parts = {"test": (splits.test, plan.test_examples), "train": (splits.train, plan.train_examples)}
    return {
        name: split.take(min(examples or len(split), len(split)), plan.seed)
        for name, (split, examples) in parts.items()
    }


def shards_at_most(splits: Splits, plan: EvaluationPlan) -> int:
    """Shards beyond which one would have no image of either split."""
    return max(block_count(len(part), plan.batch_size) for part in parts_of(splits, plan).values())


def attack_run(
    run: Run,
    plan: EvaluationPlan,
    shard: Shard,
    *,
    splits: Splits | None = None,
    trust_code: bool = False,
    device: str = "auto",
    progress: Listener = silent,
) -> None:
    """Attack one shard of the images that `evaluate_run` would attack; only its progress is written.

    When all shards are done, `evaluate_run` with the same plan finds nothing left to attack. One process has
    to hold the folder (`results.locks.locked`) while any shard is at work. Args and errors as `evaluate_run`.
    """
    on = machine.device(device)
    splits = data.of_run(run, splits, trust_code=trust_code)
    for other, one in run.missing("evaluation", plan):
        model = models.load(run.folder, checkpoint=one.checkpoint, trust_code=trust_code)
        state, listen = run.state_folder(other), of_part(progress, other)
        attack_splits(model.to(on), splits, one, state, shard, progress=listen)


def attack_splits(
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    state: Path,
    shard: Shard,
    *,
    progress: Listener = silent,
) -> None:
    """Attack one shard of the images that `evaluate_splits` would attack with the same folder `state`."""
    threat = ThreatModel.of(plan.threat)
    for name, part in parts_of(splits, plan).items():
        if len(shard.rows(len(part), plan.batch_size)):
            settings = {**_settings(plan), "shard": shard, "state": state / name}
            attack_shard(
                model,
                data.readable(part),
                part.labels,
                threat,
                **settings,
                progress=of_part(progress, name),
            )


def _settings(plan: EvaluationPlan) -> dict[str, Any]:
    """Arguments of `evaluate` that a plan sets."""
    names = (
        "attacks",
        "restarts",
        "curve",
        "curve_search",
        "batch_size",
        "precision",
        "compile",
        "adaptive",
        "seed",
        "save_adversarial",
    )
    return {name: getattr(plan, name) for name in names}


def _evaluate_into(
    run: Run,
    model: nn.Module,
    splits: Splits,
    plan: EvaluationPlan,
    provenance: Provenance,
    progress: Listener,
    other: Checkpoint | None = None,
) -> EvaluationResult:
    """Evaluate, and write the files. Progress is kept beside them until they are there."""
    state = run.state_folder(other)
    with locked(run.folder):
        listen = of_part(progress, other)
        result, adversarial = evaluate_splits(model, splits, plan, state=state, progress=listen)
        result = replace(result, provenance=provenance)
        run.remove(f"{run.adversarial_name(other)}.safetensors")  # of another plan, perhaps
        if adversarial:
            run.write_arrays(run.adversarial_name(other), adversarial)
        run.write("evaluation", result, other)
        run.remove(state.name)
    return result


def _adversarial(split: str, evaluation: Evaluation, index: Tensor) -> dict[str, np.ndarray]:
    """The images that broke the model, and their rows in the data set; empty where they are not kept."""
    if evaluation.x_adv is None:
        return {}
    broken = evaluation.clean & ~evaluation.robust
    return {
        f"{split}/x_adv": evaluation.x_adv[broken].numpy(),
        f"{split}/index": index[broken].numpy(),
        f"{split}/labels": evaluation.labels[broken].numpy(),
    }
