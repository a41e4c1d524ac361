"""Evaluation: clean accuracy, attacks one after another on the survivors, intervals, gaps."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import losses, models, reliability
from robustlens.data import Splits
from robustlens.errors import ConfigError, DataError, NumericsError
from robustlens.intervals import Interval, difference, mean_of, wilson
from robustlens.progress import Event, Listener, silent
from robustlens.recipe import EvaluationPlan, ExplanationPlan
from robustlens.reliability import Flag
from robustlens.runs import FORMAT, Run
from robustlens.threat import ThreatModel
from robustlens.train import load_data
from robustlens.version import __version__


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, image by image. All masks are boolean (n,) tensors on the CPU.

    Attributes:
        threat: the threat model. labels, predictions, loss: (n,) labels, clean predictions, clean CE.
        clean: right without an attack.
        by_attack: for each attack, in order: right, and still right after it *and all before it*. Each
            attack ran on the survivors of those before, so the last one is the worst case.
        curve: still right within each radius, by radius, ascending; empty unless asked for.
        flags: reasons not to believe the numbers.
    """

    threat: ThreatModel
    labels: Tensor
    predictions: Tensor
    loss: Tensor
    clean: Tensor
    by_attack: dict[str, Tensor]
    curve: dict[float, Tensor]
    flags: tuple[Flag, ...]

    @property
    def robust(self) -> Tensor:
        """Right under every attack: over the whole set, so a clean mistake is not robust."""
        return list(self.by_attack.values())[-1] if self.by_attack else self.clean

    def interval(self, mask: str = "robust") -> Interval:
        """Wilson interval of "clean", "robust" or an attack's name."""
        found = {"clean": self.clean, "robust": self.robust, **self.by_attack}
        return rate(found[mask])

    def summary(self) -> dict[str, Any]:
        """The numbers as `evaluation.json` keeps them for one split."""
        return {
            "n": len(self.labels),
            "clean": asdict(self.interval("clean")),
            "by_attack": {name: asdict(rate(mask)) for name, mask in self.by_attack.items()},
            "robust": asdict(self.interval("robust")),
            "loss": asdict(mean_of(self.loss.numpy())),
            "curve": [{"eps": eps, **asdict(rate(mask))} for eps, mask in self.curve.items()],
            "flags": [asdict(flag) for flag in self.flags],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The per-image arrays as `evaluation.safetensors` keeps them for one split."""
        arrays = {
            name: getattr(self, name).numpy() for name in ("labels", "clean", "robust", "loss", "predictions")
        }
        arrays |= {name: mask.numpy() for name, mask in self.by_attack.items()}
        if self.curve:
            arrays["curve"] = torch.stack(list(self.curve.values())).numpy()
            arrays["curve_eps"] = np.array(list(self.curve))
        return arrays


def rate(mask: Tensor) -> Interval:
    """Share of True with its Wilson interval."""
    return wilson(int(mask.sum()), len(mask))


def evaluate(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    threat: ThreatModel,
    attacks: str | Sequence[str | attack_room.Attack] = "fast",
    *,
    restarts: int = 1,
    curve: Sequence[float] = (),
    batch_size: int = 256,
    seed: int = 0,
    progress: Listener = silent,
) -> Evaluation:
    """Attack a model and say what stood.

    Args:
        model: returns logits (n, classes); evaluated in eval mode, on the device of its parameters.
        x: images in the threat's bounds.
        y: labels.
        threat: what the attacker may do.
        attacks: a suite ("fast": FGSM, PGD-20, PGD-20 on the margin), names such as "pgd-50", or attacks
            that you have built; run in this order, each on the images that all before it left standing.
        restarts: random restarts of each attack that has them, each on survivors.
        curve: radii, as multiples of eps, of a robust-accuracy curve (PGD-20 on CE and margin). Balls are
            nested, so an image that stood at eps counts as standing at every smaller radius, and one
            that fell counts as fallen at every larger one; each is attacked only where that leaves a
            question.
        batch_size: changes speed, not verdicts.
        seed: base of the random starts.
        progress: hears an event after every batch.

    Raises:
        ConfigError: unknown attack. DataError: shapes, labels or pixel range do not fit.
        ModelError: the model does not return logits (n, classes).
        NumericsError: an attack left the threat model.
    """
    chosen = attack_room.chosen(attacks, threat, restarts=restarts, seed=seed)
    _check_images(x, y, threat, batch_size)
    y = y.cpu()
    work = _Work(model, x, y, batch_size, progress)
    with models.held_still(model):
        two, _ = work.take(torch.arange(min(2, len(x))))
        with torch.no_grad():  # only the shape: NaN is for the flags to say, of all images
            models.as_logits(models.forward(model, two), len(two), at_least=max(2, int(y.max()) + 1))
        logits = work.logits()
        clean = ~losses.is_wrong(logits, y)
        standing, by_attack = clean, {}
        for name, attack in chosen.items():
            standing = work.survivors(attack, threat, standing, name)
            by_attack[name] = standing
        radii = _curve(work, threat, clean, standing, curve, restarts, seed)
        flags = reliability.check(model, *work.take(torch.arange(min(64, len(x)))), logits)
    loss = losses.cross_entropy(logits.float(), y)
    return Evaluation(threat, y, logits.argmax(1), loss, clean, by_attack, radii, flags)


@dataclass(frozen=True, eq=False)
class _Work:
    """A model and its images, handed out in full batches on the model's device."""

    model: nn.Module
    x: Tensor
    y: Tensor
    batch_size: int
    listen: Listener

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        device = models.device_of(self.model)
        return self.x[rows].to(device), self.y[rows].to(device)

    @torch.no_grad()
    def logits(self) -> Tensor:
        batches = torch.arange(len(self.x)).split(self.batch_size)
        return torch.cat([self.model(self.take(rows)[0]).float().cpu() for rows in batches])

    def survivors(
        self, attack: attack_room.Attack, threat: ThreatModel, standing: Tensor, name: str
    ) -> Tensor:
        """Which of the `standing` images are still right after the attack, which may not leave the threat."""
        left = standing.clone()
        rows = torch.nonzero(standing).squeeze(1)
        if len(rows) == 0:
            return left
        done = 0
        for batch in rows.split(self.batch_size):
            x, y = self.take(batch)
            x_adv = attack(self.model, x, y)
            _check_feasible(name, x_adv, x, threat)
            with torch.no_grad():
                left[batch] = ~losses.is_wrong(self.model(x_adv), y).cpu()
            done += len(batch)
            self.listen(Event(name, done, len(rows), f"{int(left.sum())} of {len(left)} standing"))
        return left


def _curve(
    work: _Work,
    threat: ThreatModel,
    clean: Tensor,
    robust: Tensor,
    multiples: Sequence[float],
    restarts: int,
    seed: int,
) -> dict[float, Tensor]:
    """Masks of images standing within each radius; see `evaluate`."""
    if not multiples:
        return {}
    if any(multiple < 0 for multiple in multiples):
        raise ConfigError(f"evaluate.curve: found {list(multiples)}, expected multiples of eps >= 0")

    def attacked(multiple: float, standing: Tensor) -> Tensor:
        eps = multiple * threat.eps
        if threat.norm == "Linf":  # the whole box is the largest ball there is
            eps = min(eps, threat.bounds[1] - threat.bounds[0])
        within = threat.at(eps)
        for name in ("pgd-20", "cw-20"):
            attack = attack_room.get(name, within, restarts=restarts, seed=seed)
            standing = work.survivors(attack, within, standing, f"curve at {multiple:g} eps")
        return standing

    masks = {0.0: clean}
    in_question = clean & ~robust
    for multiple in sorted(m for m in set(multiples) if 0 < m < 1):
        in_question = attacked(multiple, in_question)
        masks[multiple] = in_question | robust
    masks[1.0] = standing = robust
    for multiple in sorted(m for m in set(multiples) if m > 1):
        masks[multiple] = standing = attacked(multiple, standing)
    return {multiple * threat.eps: mask for multiple, mask in masks.items()}


def _check_feasible(name: str, x_adv: Tensor, x: Tensor, threat: ThreatModel) -> None:
    """A success outside the threat model is none: a number made of such images is not valid."""
    low, high = threat.bounds
    far = float(threat.distance(x_adv.double(), x.double()).max())
    if not (far <= threat.eps + 1e-6 * (high - low) and x_adv.min() >= low and x_adv.max() <= high):
        raise NumericsError(
            f"attack {name!r}: found an image at {threat.norm} distance {far:g} with pixels in "
            f"[{float(x_adv.min()):g}, {float(x_adv.max()):g}], expected at most {threat.eps:g} in "
            f"[{low:g}, {high:g}]; build the attack with the evaluation's threat"
        )


def _check_images(x: Tensor, y: Tensor, threat: ThreatModel, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"evaluate.batch_size: found {batch_size}, expected >= 1")
    if y.ndim != 1 or y.is_floating_point():
        raise DataError(f"evaluate: found labels {y.dtype} of shape {tuple(y.shape)}, expected integers (n,)")
    if len(x) == 0 or len(x) != len(y):
        raise DataError(
            f"evaluate: found {len(x)} images and {len(y)} labels, expected the same number, at least 1"
        )
    if int(y.min()) < 0:
        raise DataError(f"evaluate: found label {int(y.min())}, expected 0 to classes - 1")
    low, high = float(x.min()), float(x.max())
    if not (low >= threat.bounds[0] and high <= threat.bounds[1]):
        raise DataError(
            f"evaluate: found pixels in [{low:g}, {high:g}], expected {list(threat.bounds)}; divide by 255, "
            "keep normalisation inside the model, or set the threat's bounds"
        )


# -- a run folder's evaluation -------------------------------------------------------------------------


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

    Writes `evaluation.json` and `evaluation.safetensors`; returns the former. An evaluation of the same
    plan and weights that is there already is returned as it is.
    """
    splits = splits or load_data(run.recipe)
    known = provenance(run, plan, splits)
    found = run.evaluation
    if is_current(found, known):
        return found
    model = models.load(run.folder, checkpoint=plan.checkpoint, trust_code=trust_code)
    content, arrays = evaluate_splits(model, splits, plan, progress=progress)
    run.write_result("evaluation", {**known, **content}, arrays)
    return {**known, **content}


def evaluate_splits(
    model: nn.Module, splits: Splits, plan: EvaluationPlan, *, progress: Listener = silent
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluate on training and test images with the same attacks; returns what the two files keep."""
    began = perf_counter()
    threat = ThreatModel(plan.threat.norm, plan.threat.eps)
    parts = {"test": (splits.test, plan.test_examples), "train": (splits.train, plan.train_examples)}
    found: dict[str, Evaluation] = {}
    arrays: dict[str, np.ndarray] = {}
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
            seed=plan.seed,
            progress=_within(progress, name),
        )
        arrays |= {f"{name}/{key}": array for key, array in found[name].arrays().items()}
        arrays[f"{name}/index"] = part.index.numpy()
    content = {
        "format": FORMAT,
        "threat": asdict(threat),
        "attacks": list(found["test"].by_attack),
        "splits": {name: evaluation.summary() for name, evaluation in found.items()},
        "gaps": gaps(found["train"], found["test"]),
        "seconds": perf_counter() - began,
    }
    return content, arrays


def provenance(run: Run, plan: EvaluationPlan | ExplanationPlan, splits: Splits) -> dict[str, Any]:
    """What a result was computed from: recipe, plan, the very weights and images, and our version."""
    weights = (run.folder / f"{plan.checkpoint}.safetensors").read_bytes()
    return {
        "recipe_hash": run.recipe.hash(),
        "weights": hashlib.sha256(weights).hexdigest()[:16],
        "checkpoint": plan.checkpoint,
        "plan": plan.model_dump(mode="json"),
        "data": splits.fingerprint,
        "version": __version__,
    }


def is_current(found: dict[str, Any] | None, known: dict[str, Any]) -> TypeGuard[dict[str, Any]]:
    """Whether a saved result has exactly this provenance."""
    return found is not None and all(found.get(key) == value for key, value in known.items())


def gaps(train: Evaluation, test: Evaluation) -> dict[str, dict[str, float]]:
    """How far training and test lie apart; each is positive where training looks better.

    error: test error minus training error, clean. loss: the same for clean cross entropy, in nats. robust:
    training minus test robust accuracy, both re-measured at w, in eval mode, with the same attacks.
    """
    return {
        "error": asdict(difference(train.interval("clean"), test.interval("clean"))),
        "loss": asdict(difference(mean_of(test.loss.numpy()), mean_of(train.loss.numpy()))),
        "robust": asdict(difference(train.interval("robust"), test.interval("robust"))),
    }


def _within(listen: Listener, split: str) -> Listener:
    return lambda event: listen(Event(f"{split} {event.phase}", event.done, event.total, event.note))
