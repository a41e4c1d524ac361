"""Training: recipe -> data -> batch -> attack -> objective at w (or w + v) -> step -> checkpoint.

A run can be killed at any moment and goes on at its last finished epoch with the same numbers: the order of
the images, the augmentation and the random starts are functions of (seed, epoch, step), not of a generator
that would have to be saved. `state.safetensors` is written last in every epoch and is the only file that a
resumed run believes.
"""

import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustlens import attacks, data, losses, models, noise
from robustlens.config import Recipe, checked
from robustlens.data import Split, Splits
from robustlens.errors import ConfigError, NumericsError, RobustlensError, StateError, StoppedError
from robustlens.progress import Event, Listener, silent
from robustlens.results.folders import Run
from robustlens.threat import ThreatModel
from robustlens.training.distributed import fabric_for, held, run_at
from robustlens.training.pseudo_labels import batch_order, pseudo_label, teacher_recipe
from robustlens.training.schedules import learning_rate
from robustlens.training.step import step_for
from robustlens.version import __version__
from robustlens.weights import ExponentialMovingAverage, bound_singular_values

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision to the terminal

_MEASURED = "at w, in eval mode, without augmentation, on a fixed subset"
_CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device


def train(
    recipe: Recipe | dict[str, Any],
    out: Path | str | None = None,
    *,
    splits: Splits | None = None,
    progress: Listener = silent,
) -> Run:
    """Train one network, or go on with it, and return its run folder.

    Under torchrun the processes train one network together (`robustlens.ranks`): each takes its share of
    every batch, and the first one writes.

    Args:
        recipe: everything that determines the result, as a `Recipe` or the mapping of one.
        out: the run folder; None for `robustlens-out/<hash of the recipe>`. A finished run is returned
            as it is; an unfinished one goes on after its last saved epoch.
        splits: the data of the recipe where the caller has loaded it already.
        progress: hears an event at every step.

    Raises:
        ConfigError: the recipe is wrong. DataError: the data cannot be read.
        NumericsError: the loss or a weight stopped being finite; the last good checkpoint is kept.
        LockedError: another process trains in `out`. StateError: `out` belongs to another recipe.
    """
    recipe = checked(Recipe, recipe, "recipe")
    run = run_at(Path(out) if out is not None else Path("robustlens-out") / recipe.hash())
    run.check(recipe)
    if run.status["status"] in ("trained", "done"):
        return run
    # Data and network first: a wrong recipe leaves no file behind.
    training = _Training(recipe, run, splits or load_data(recipe), progress)
    with held(run):
        run.claim(recipe)
        try:
            training.to_the_end()
        except StoppedError:
            raise  # no failure: the same call goes on
        except RobustlensError as error:
            run.update_status(status="failed", error=describe(error))
            raise
    training.fabric.barrier()  # what the first rank wrote is there for all
    return run


def describe(error: BaseException) -> dict[str, Any]:
    """An error as run files keep it."""
    code = getattr(error, "exit_code", 1)
    return {"type": type(error).__name__, "message": str(error).splitlines()[0][:500], "exit_code": code}


def load_data(recipe: Recipe) -> Splits:
    """The data that a recipe names."""
    spec = recipe.data
    return data.load(
        spec.name,
        data_dir=spec.data_dir,
        validation=spec.validation,
        seed=spec.seed,
        train_limit=spec.train_limit,
        test_limit=spec.test_limit,
        unlabeled=spec.unlabeled,
    )


def describe_model(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What `models.build_from` needs; the normalisation is that of the training images."""
    images = splits.train.images
    counts = torch.stack(
        [torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])]
    )
    share = counts.double() / counts.sum(1, keepdim=True)
    level = torch.arange(256).double() / 255
    mean = share @ level
    std = (share @ level.square() - mean.square()).clamp_min(0).sqrt()
    return models.describe(
        recipe.model.name,
        num_classes=splits.num_classes,
        in_channels=images.shape[1],
        mean=[round(value, 6) for value in mean.tolist()],
        std=[round(max(value, 1e-3), 6) for value in std.tolist()],
        **recipe.model.options,
    )


def accuracy(
    network: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, batch_size: int
) -> dict[str, Any]:
    """Clean and PGD accuracy on all of `x`, in eval mode, in float32; and, clean, two mean losses.

    `loss` is cross entropy; `ramp_risk` the ramp loss of the probability margin at gamma 1 (Wen et al. 2020,
    definition 4), which is 1 on every mistake.
    """
    attack = attacks.PGD(threat, steps=steps, stop_at_success=True)
    clean = robust = 0
    loss = ramp = 0.0
    with models.inference(network):
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = network(images)
            loss += losses.cross_entropy(logits, labels).sum().item()
            ramp += (1.0 + losses.margin(logits.softmax(1), labels)).clamp(0, 1).sum().item()
            right = ~losses.is_wrong(logits, labels)
            clean += int(right.sum())
            standing, wanted = images[right], labels[right]
            if threat.eps > 0 and len(standing):
                standing = attack(network, standing, wanted)
                robust += int((~losses.is_wrong(network(standing), wanted)).sum())
            else:
                robust += len(standing)
    sums = {"clean": clean, "robust": robust, "loss": loss, "ramp_risk": ramp}
    return {"n": len(x), **{name: found / len(x) for name, found in sums.items()}, "measured": _MEASURED}


@dataclass
class _Reached:
    """How far a run has come; saved with the weights."""

    epochs_done: int = 0
    seconds: float = 0.0
    best_score: tuple[float, float] = (-1.0, -1.0)
    best_epoch: int = 0


class _Training:
    """One run in memory: the network, its optimizer, and what a saved state needs."""

    def __init__(self, recipe: Recipe, run: Run, splits: Splits, listen: Listener) -> None:
        self.recipe, self.run, self.splits, self.listen = recipe, run, splits, listen
        _check_patience(recipe, splits)
        self.fabric = fabric_for(recipe.precision)
        self.description = describe_model(recipe, splits)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = models.build_from(self.description)
        if recipe.init is not None:
            other = models.load(recipe.init.model, checkpoint=recipe.init.checkpoint)
            models.start_from(model, other, new_head=recipe.init.new_head)
        self.start = models.fingerprint(model) if recipe.init is not None else None
        # nn.Module.to takes a memory format, although its type stubs leave it out
        to_device: Callable[..., nn.Module] = model.to
        self.model = to_device(self.fabric.device, memory_format=torch.channels_last)
        self.threat = ThreatModel(recipe.threat.norm, recipe.threat.eps)
        spec = recipe.optimizer
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=spec.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
        )
        self.step = step_for(recipe)(
            recipe, self.model, splits.train, self.optimizer, self.fabric, splits.num_classes
        )
        self.ema = ExponentialMovingAverage(self.model, recipe.ema) if recipe.ema else None
        self.reached = _Reached()
        self.order = batch_order(recipe, len(splits.train))

    # -- the loop --------------------------------------------------------------------------------

    def to_the_end(self) -> None:
        """Train the epochs that are left."""
        self._resume()
        if self.recipe.pseudo_labels is not None:
            self.step.images = self._with_pseudo_labels()
        self.run.update_status(
            status="training",
            error=None,
            environment=environment(self.fabric.device),
            model=self.description,
            data=self.splits.fingerprint,
        )
        for epoch in range(self.reached.epochs_done, self.recipe.optimizer.epochs):
            if self._is_out_of_patience():
                break
            began = time.perf_counter()
            with torch.random.fork_rng(devices=self._cuda()):
                # What layers draw (dropout) is a function of (seed, epoch) too, and no one else's business.
                torch.manual_seed(noise.generator_for(self.recipe.seed, epoch, 3).initial_seed())
                loss = self._epoch(epoch)
            self.reached.seconds += time.perf_counter() - began
            self._finish_epoch(epoch, loss, time.perf_counter() - began)
        self.run.update_status(
            status="trained",
            epochs_done=self.reached.epochs_done,
            best_epoch=self.reached.best_epoch,
            train_seconds=self.reached.seconds,
        )

    def _with_pseudo_labels(self) -> Split:
        """The training images, and after them the unlabeled ones as a standard network labels them."""
        assert self.splits.unlabeled is not None
        teacher = train(
            teacher_recipe(self.recipe),
            self.run.folder / "teacher",
            splits=replace(self.splits, unlabeled=None),
            progress=lambda event: self.listen(replace(event, phase=f"teacher {event.phase}")),
        )
        network = models.load(teacher.folder, checkpoint="best", trust_code=True).to(self.fabric.device)
        pool = pseudo_label(network, self.splits.unlabeled, 2 * self.recipe.optimizer.batch_size)
        right = (pool.labels == self.splits.unlabeled.labels).double().mean()
        self.run.update_status(pseudo_labels={"images": len(pool), "right": float(right)})
        self.run.write_arrays("pseudo_labels", {"index": pool.index.numpy(), "label": pool.labels.numpy()})
        return self.splits.train.followed_by(pool)

    def _is_out_of_patience(self) -> bool:
        patience = self.recipe.optimizer.patience
        return patience is not None and self.reached.epochs_done - self.reached.best_epoch >= patience

    def _cuda(self) -> list[int]:
        device = self.fabric.device
        return [device.index or 0] if device.type == "cuda" else []

    def _epoch(self, epoch: int) -> float:
        """All steps of one epoch; returns the mean training loss."""
        recipe = self.recipe
        batches = self.order(noise.generator_for(recipe.seed, epoch))
        total = torch.zeros((), device=self.fabric.device)
        self.model.train()
        for step, rows in enumerate(batches):
            done = (epoch + step / len(batches)) / recipe.optimizer.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(recipe.optimizer, done)
            total += self.step(epoch, step, rows)
            last = step + 1 == len(batches)
            if recipe.capacity is not None and ((step + 1) % recipe.capacity.every == 0 or last):
                bound_singular_values(self.model, recipe.capacity.low, recipe.capacity.high)
            if self.ema is not None:
                self.ema.update()
            if step % _CHECK_EVERY == 0 or last:
                mean = self._finite(self._over_ranks(total) / (step + 1), epoch, step)
                at = epoch * len(batches) + step + 1
                note = f"epoch {epoch + 1}/{recipe.optimizer.epochs}, loss {mean:.3f}"
                self.listen(Event("train", at, len(batches) * recipe.optimizer.epochs, note))
        return mean

    def _over_ranks(self, loss: Tensor) -> float:
        """The mean over ranks, the same for all, so that no rank goes on where another stops."""
        found = self.fabric.all_reduce(loss, reduce_op="mean")
        assert isinstance(found, Tensor)
        return found.item()

    def _finite(self, loss: float, epoch: int, step: int) -> float:
        if not math.isfinite(loss):
            spec = self.recipe.optimizer
            raise NumericsError(
                f"{self.run.folder}: the loss became {loss} in epoch {epoch + 1}, by step {step + 1}; "
                f"epoch {self.reached.epochs_done} is kept; lower optimizer.lr ({spec.lr:g})"
            )
        return loss

    # -- epoch ends, checkpoints, resume ---------------------------------------------------------

    @property
    def network(self) -> nn.Module:
        """What is evaluated and saved: the running average where there is one."""
        return self.model if self.ema is None else self.ema.average

    def _finish_epoch(self, epoch: int, loss: float, seconds: float) -> None:
        train = self._monitor(self.splits.train)
        validation = self._monitor(self.splits.validation)
        score = (validation["robust"], validation["clean"]) if validation else (float(epoch), 0.0)
        best = score > self.reached.best_score
        weights = models.to_bytes(self.network, self.description)
        if any(not torch.isfinite(p).all() for p in self.network.parameters()):
            raise NumericsError(
                f"{self.run.folder}: a weight is not finite after epoch {epoch + 1}; lower optimizer.lr"
            )
        if best:
            self.reached.best_score, self.reached.best_epoch = score, epoch + 1
            self.run.write_bytes("best.safetensors", weights)
        self.run.write_bytes("last.safetensors", weights)
        if self.recipe.keep_every is not None and (epoch + 1) % self.recipe.keep_every == 0:
            self.run.write_bytes(f"epoch-{epoch + 1:04d}.safetensors", weights)
        self.reached.epochs_done = epoch + 1
        self.run.append_metrics(
            {
                "epoch": epoch + 1,
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": seconds,
                "loss": loss,
                "loss_measured": f"while training, at w{' + v' * self.step.acts(epoch)}",
                "awp": self.recipe.awp is not None and self.step.acts(epoch),
                "train": train,
                "validation": validation,
                "best": best,
            }
        )
        self.run.write_bytes("state.safetensors", self._state())
        self.run.update_status(epochs_done=epoch + 1, train_seconds=self.reached.seconds)

    def _monitor(self, split: Split) -> dict[str, Any] | None:
        """Accuracies on a fixed subset of `split`, or None if it is empty."""
        if len(split) == 0:
            return None
        spec = self.recipe.monitor
        part = split.take(min(spec.examples, len(split)), seed=self.recipe.data.seed)
        device = self.fabric.device
        x, y = part.x().to(device), part.labels.to(device)
        size = 2 * self.recipe.optimizer.batch_size
        # Running statistics may differ from rank to rank: those of the first, which are saved, count.
        return self.fabric.broadcast(accuracy(self.network, x, y, self.threat, spec.steps, size))

    def _state(self) -> bytes:
        """Everything that training needs to go on, in one file."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for key, value in self.optimizer.state_dict()["state"].items():
            if value.get("momentum_buffer") is not None:
                tensors[f"momentum.{key}"] = value["momentum_buffer"]
        header: dict[str, Any] = {
            "recipe": self.recipe.hash(),
            "data": self.splits.fingerprint,
            "start": self.start,
            **vars(self.reached),
        }
        if self.ema is not None:
            tensors |= {f"average.{key}": value for key, value in self.ema.average.state_dict().items()}
            header["average_steps"] = self.ema.steps
        dense = {key: value.contiguous() for key, value in tensors.items()}
        return save_tensors(dense, {"robustlens": json.dumps(header)})

    def _resume(self) -> None:
        """Take up the saved state, if there is one, and drop metrics that were logged after it."""
        path = self.run.folder / "state.safetensors"
        if path.exists():
            header, tensors = _read_state(path)
            if header.get("recipe") != self.recipe.hash():
                raise StateError(f"{path}: belongs to recipe {header.get('recipe')}; choose another --out")
            if header.get("data") != self.splits.fingerprint:
                raise StateError(
                    f"{path}: was trained on other images of the same name; choose another --out"
                )
            if header.get("start") != self.start:
                raise StateError(
                    f"{path}: began from other weights than recipe.init names now; choose another --out"
                )
            self.model.load_state_dict(_part(tensors, "model."))
            optimizer = self.optimizer.state_dict()
            momenta = _part(tensors, "momentum.")
            optimizer["state"] = {int(key): {"momentum_buffer": value} for key, value in momenta.items()}
            self.optimizer.load_state_dict(optimizer)
            if self.ema is not None:
                self.ema.average.load_state_dict(_part(tensors, "average."))
                self.ema.steps = header["average_steps"]
            known = {key: header[key] for key in vars(self.reached) if key in header}
            self.reached = _Reached(**{**known, "best_score": tuple(header["best_score"])})
        self.run.truncate_metrics(self.reached.epochs_done)


def _check_patience(recipe: Recipe, splits: Splits) -> None:
    """Refuse patience, of the network or of its teacher, where every epoch counts as the best."""
    specs = {"optimizer": recipe.optimizer}
    if recipe.pseudo_labels is not None:
        specs["pseudo_labels.teacher"] = recipe.pseudo_labels.teacher
    for name, spec in specs.items():
        if spec.patience is not None and len(splits.validation) == 0:
            raise ConfigError(
                f"{name}.patience: found {spec.patience} without validation images, by which an epoch is "
                "better than another; set data.validation above 0"
            )


def environment(device: torch.device) -> dict[str, str]:
    """What a result was computed with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    return {
        "robustlens": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["robustlens"])
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path}: damaged ({error}); delete the run folder to start again") from error
