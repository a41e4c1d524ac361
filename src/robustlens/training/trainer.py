"""Training: recipe -> data -> batch -> attack -> objective at w (or w + v) -> step -> checkpoint.

A run can be killed at any moment and goes on at its last finished epoch with the same numbers: the order of
the images, the augmentation and the random starts are functions of (seed, epoch, step), not of a generator
that would have to be saved. The training state is written last in every epoch and is the only file that a
resumed run believes.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustlens import data, models, noise
from robustlens.config import BEST, LAST, Checkpoint, Recipe, checked, radius_problem
from robustlens.data import Split, Splits
from robustlens.errors import ConfigError, NumericsError, RobustlensError, StoppedError
from robustlens.machine import environment
from robustlens.progress import Event, Listener, silent
from robustlens.results import EpochRecord, ErrorRecord, MonitorRecord, Run
from robustlens.training import state
from robustlens.training.distributed import fabric_for, mean_over_ranks, run_at, writer_lock
from robustlens.training.monitor import Monitor
from robustlens.training.network import describe_model, starting_network
from robustlens.training.pseudo_labels import (
    batch_order,
    pseudo_label,
    teacher_recipe,
    write_pseudo_labels,
)
from robustlens.training.schedules import learning_rate
from robustlens.training.step import step_for
from robustlens.weights import ExponentialMovingAverage, bound_singular_values

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision to the terminal

_LAYERS = 3  # sub-stream of an epoch's randomness that layers draw from; a step has others
_CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device


def train(
    recipe: Recipe | dict[str, Any],
    out: Path | str | None = None,
    *,
    splits: Splits | None = None,
    progress: Listener = silent,
) -> Run:
    """Train one network, or go on with it, and return its run folder.

    Under torchrun the processes train one network together (`training.distributed`): each takes its share of
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
    if run.record.status in ("trained", "done"):
        return run
    # Data and network first: a wrong recipe leaves no file behind.
    loop = TrainingLoop(recipe, run, splits or data.of_spec(recipe.data, trust_code=True), progress)
    with writer_lock(run):
        run.bind(recipe)
        try:
            loop.run_all_epochs()
        except StoppedError:
            raise  # no failure: the same call goes on
        except RobustlensError as error:
            run.update(status="failed", error=ErrorRecord.of(error))
            raise
    loop.fabric.barrier()  # the files of the first rank are there for all
    return run


class TrainingLoop:
    """Training of one run: the network in memory, its optimizer, its epochs, its files.

    Args:
        recipe: says how. run: its folder. splits: its data. listener: hears an event at every step.
    """

    def __init__(self, recipe: Recipe, run: Run, splits: Splits, listener: Listener) -> None:
        _check_patience(recipe, splits)
        _check_radius(recipe, splits)
        self.recipe, self.run, self.splits, self.listener = recipe, run, splits, listener
        self.fabric = fabric_for(recipe.precision)
        self.description = describe_model(recipe, splits)
        model = starting_network(recipe, self.description)
        start = None if recipe.init is None else models.fingerprint(model)
        # nn.Module.to takes a memory format, although its type stubs leave it out
        to_device: Callable[..., nn.Module] = model.to
        self.model = to_device(self.fabric.device, memory_format=torch.channels_last)
        self.optimizer = _sgd(recipe, self.model)
        self.step = step_for(recipe)(
            recipe, self.model, splits.train, self.optimizer, self.fabric, splits.num_classes
        )
        self.order = batch_order(recipe, len(splits.train))
        self.average = ExponentialMovingAverage(self.model, recipe.ema) if recipe.ema else None
        self.monitors = [Monitor(recipe, split, self.fabric) for split in (splits.train, splits.validation)]
        origin = state.StateRecord(recipe.hash(), splits.fingerprint, start)
        self.state = state.TrainingState(origin, self.model, self.optimizer, self.average)

    @property
    def network(self) -> nn.Module:
        """The network that is evaluated and saved: the running average where there is one."""
        return self.model if self.average is None else self.average.average

    # -- epochs ----------------------------------------------------------------------------------

    def run_all_epochs(self) -> None:
        """Train the epochs that are left."""
        self._resume()
        if self.recipe.pseudo_labels is not None:
            self.step.images = self._with_pseudo_labels()
        self.run.update(
            status="training",
            error=None,
            environment=environment(self.fabric.device),
            model=self.description,
            data=self.splits.fingerprint,
            data_dir=data.data_folder(self.recipe.data),
        )
        for epoch in range(self.state.record.epochs_done, self.recipe.optimizer.epochs):
            if self._is_out_of_patience():
                break
            began = time.perf_counter()
            with self._layers_draw_for(epoch):
                loss = self._epoch(epoch)
            self._finish_epoch(epoch, loss, time.perf_counter() - began)
        done = self.state.record
        self.run.update(
            status="trained",
            epochs_done=done.epochs_done,
            best_epoch=done.best_epoch,
            train_seconds=done.seconds,
        )

    def _resume(self) -> None:
        """Take up the saved state, if there is one, and drop metrics that were logged after it."""
        path = self.run.folder / state.FILE
        if path.exists():
            self.state.restore(path)
        self.run.truncate_metrics(self.state.record.epochs_done)

    def _with_pseudo_labels(self) -> Split:
        """The training images, and after them the unlabeled ones as a standard network labels them."""
        assert self.splits.unlabeled is not None
        teacher = train(
            teacher_recipe(self.recipe),
            self.run.folder / "teacher",
            splits=replace(self.splits, unlabeled=None),
            progress=lambda event: self.listener(replace(event, phase=f"teacher {event.phase}")),
        )
        network = models.load(teacher.folder, checkpoint="best", trust_code=True).to(self.fabric.device)
        pool = pseudo_label(network, self.splits.unlabeled, 2 * self.recipe.optimizer.batch_size)
        write_pseudo_labels(self.run, pool, self.splits.unlabeled.labels)
        return self.splits.train.followed_by(pool)

    def _is_out_of_patience(self) -> bool:
        patience, done = self.recipe.optimizer.patience, self.state.record
        return patience is not None and done.epochs_done - done.best_epoch >= patience

    @contextlib.contextmanager
    def _layers_draw_for(self, epoch: int) -> Iterator[None]:
        """Seed what layers draw (dropout) by (seed, epoch); the caller's random state comes back."""
        device = self.fabric.device
        with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(noise.generator_for(self.recipe.seed, epoch, _LAYERS).initial_seed())
            yield

    def _epoch(self, epoch: int) -> float:
        """Take all steps of one epoch; returns the mean training loss."""
        recipe = self.recipe
        batches = self.order(noise.generator_for(recipe.seed, epoch))
        total = torch.zeros((), device=self.fabric.device)
        self.model.train()
        for step, rows in enumerate(batches):
            is_last = step + 1 == len(batches)
            for group in self.optimizer.param_groups:
                done = (epoch + step / len(batches)) / recipe.optimizer.epochs
                group["lr"] = learning_rate(recipe.optimizer, done)
            total += self.step(epoch, step, rows)
            if recipe.capacity is not None and ((step + 1) % recipe.capacity.every == 0 or is_last):
                bound_singular_values(self.model, recipe.capacity.low, recipe.capacity.high)
            if self.average is not None:
                self.average.update()
            if step % _CHECK_EVERY == 0 or is_last:
                mean = mean_over_ranks(self.fabric, total) / (step + 1)
                self._check_loss(mean, epoch, step)
                at, steps = epoch * len(batches) + step + 1, len(batches) * recipe.optimizer.epochs
                note = f"epoch {epoch + 1}/{recipe.optimizer.epochs}, loss {mean:.3f}"
                self.listener(Event("train", at, steps, note))
        return mean

    def _check_loss(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise NumericsError(
                f"{self.run.folder}: the loss became {loss} in epoch {epoch + 1}, by step {step + 1}; "
                f"epoch {self.state.record.epochs_done} is kept; "
                f"lower optimizer.lr ({self.recipe.optimizer.lr:g})"
            )

    # -- ends of epochs --------------------------------------------------------------------------

    def _finish_epoch(self, epoch: int, loss: float, seconds: float) -> None:
        """Measure the network and write its weights, its metrics and, last, the state."""
        train, validation = (monitor(self.network) for monitor in self.monitors)
        self._check_weights(epoch)
        before, score = self.state.record, _score(epoch, validation)
        is_best = score > before.best_score
        self._write_weights(epoch, is_best)
        self.run.append_metrics(
            EpochRecord(
                epoch=epoch + 1,
                lr=self.optimizer.param_groups[0]["lr"],
                seconds=seconds,
                loss=loss,
                loss_measured=f"while training, at w{' + v' * self.step.perturbs(epoch)}",
                perturbed=self.step.perturbs(epoch),
                train=train,
                validation=validation,
                best=is_best,
            )
        )
        done = replace(before, epochs_done=epoch + 1, seconds=before.seconds + seconds)
        self.state.record = replace(done, best_score=score, best_epoch=epoch + 1) if is_best else done
        self.run.write_bytes(state.FILE, self.state.to_bytes())
        self.run.update(epochs_done=epoch + 1, train_seconds=done.seconds)

    def _check_weights(self, epoch: int) -> None:
        if not all(torch.isfinite(parameter).all() for parameter in self.network.parameters()):
            raise NumericsError(
                f"{self.run.folder}: a weight is not finite after epoch {epoch + 1}; lower optimizer.lr"
            )

    def _write_weights(self, epoch: int, is_best: bool) -> None:
        """Write the checkpoints that this epoch is."""
        content = models.to_bytes(self.network, self.description, recipe=self.recipe.hash())
        keep_every = self.recipe.keep_every
        if is_best:
            self.run.write_weights(BEST, content)
        self.run.write_weights(LAST, content)
        if keep_every is not None and (epoch + 1) % keep_every == 0:
            self.run.write_weights(Checkpoint("epoch", epoch + 1), content)


def _sgd(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    spec = recipe.optimizer
    return torch.optim.SGD(
        model.parameters(),
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
    )


def _score(epoch: int, validation: MonitorRecord | None) -> tuple[float, float]:
    """Validation accuracies, robust before clean; without validation images a later epoch is better."""
    return (float(epoch), 0.0) if validation is None else (validation.robust, validation.clean)


def _check_radius(recipe: Recipe, splits: Splits) -> None:
    """Refuse a radius that reaches any image of this size."""
    threat = recipe.threat
    problem = radius_problem(threat.norm, threat.eps, dimensions=math.prod(splits.shape))
    if problem:
        raise ConfigError(f"recipe.threat.eps: {problem}")


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
