"""The loop over the epochs of one training run, and over the steps of an epoch."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlens import data, models, noise, processes, stopping
from robustlens.config import BEST, LAST, Checkpoint, Recipe
from robustlens.data import Splits
from robustlens.errors import NumericsError, StoppedError
from robustlens.machine import environment
from robustlens.models.whole_batch_norm import with_whole_batch_norm
from robustlens.progress import Event, Listener
from robustlens.results import EpochRecord, Run
from robustlens.training import optimizers, state
from robustlens.training.background import PeriodicWriter
from robustlens.training.checks import check_fit
from robustlens.training.distributed import fabric_for, mean_over_ranks, same_buffers
from robustlens.training.monitor import Monitor
from robustlens.training.network import describe_model, starting_network
from robustlens.training.pseudo_labels import batch_order
from robustlens.training.schedules import schedule_for
from robustlens.training.step import step_for
from robustlens.training.stopwatch import Stopwatch
from robustlens.weights import ExponentialMovingAverage, bound_singular_values

_LAYERS = 3  # sub-stream of an epoch's randomness that layers draw from; a step has others
_CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device


class TrainingLoop:
    """Training of one run: the network in memory, its optimizer, its epochs, its files.

    Args:
        recipe: says how. run: its folder. splits: its data. listener: hears an event at every step.
        device: by its name, for `machine.device`.
        checkpoint_minutes: between two states that are written inside an epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        splits: Splits,
        listener: Listener,
        device: str = "auto",
        checkpoint_minutes: float = 30.0,
    ) -> None:
        check_fit(recipe, splits)
        self.recipe, self.run, self.splits, self.listener = recipe, run, splits, listener
        self.fabric = fabric_for(recipe.precision, device)
        self.description = describe_model(recipe, splits)
        model = starting_network(recipe, self.description)
        if recipe.sync_batch_norm and self.fabric.world_size > 1:
            model = with_whole_batch_norm(model)
        models.check_logits(model, splits.train.x(slice(2)), at_least=splits.num_classes)
        start = None if recipe.init is None else models.fingerprint(model)
        # nn.Module.to takes a memory format, although its type stubs leave it out
        to_device: Callable[..., nn.Module] = model.to
        self.model = to_device(self.fabric.device, memory_format=torch.channels_last)
        self.optimizer = optimizers.build(recipe.optimizer, self.model.parameters())
        self.step = step_for(recipe)(
            recipe, self.model, splits.train, self.optimizer, self.fabric, splits.num_classes
        )
        self.order = batch_order(recipe, len(splits.train), self.fabric.world_size)
        self.steps = len(self.order(noise.generator_for(recipe.seed, 0)))
        self.schedule = schedule_for(recipe.optimizer, self.optimizer, self.steps)
        self.average = ExponentialMovingAverage(self.model, recipe.ema) if recipe.ema else None
        self.monitors = [Monitor(recipe, split, self.fabric) for split in (splits.train, splits.validation)]
        origin = state.StateRecord(recipe.hash(), splits.fingerprint, start)
        self.state = state.TrainingState(origin, self.model, self.optimizer, self.schedule, self.average)
        # Of one process: several have a random state each, and some keep tensors of their own.
        minutes = checkpoint_minutes if self.fabric.world_size == 1 else math.inf
        self.partial_states = PeriodicWriter(partial(run.write_bytes, state.STEP), minutes)

    @property
    def network(self) -> nn.Module:
        """The network that is evaluated and saved: the running average where there is one."""
        return self.model if self.average is None else self.average.average

    # -- epochs ----------------------------------------------------------------------------------

    def run_all_epochs(self) -> None:
        """Train the epochs that are left."""
        self.run.update(
            status="training",
            error=None,
            environment=environment(self.fabric.device),
            model=self.description,
            data=self.splits.fingerprint,
            data_dir=data.data_folder(self.recipe.data),
        )
        try:
            for epoch in range(self.state.record.epochs_done, self.recipe.optimizer.epochs):
                if self._is_out_of_patience():
                    break
                with stopping.deferred() if self.fabric.world_size == 1 else contextlib.nullcontext():
                    self._train_epoch(epoch)
        finally:
            self.partial_states.finish()
        done = self.state.record
        self.run.update(
            status="trained",
            epochs_done=done.epochs_done,
            best_epoch=done.best_epoch,
            train_seconds=done.seconds,
        )

    def resume(self) -> None:
        """Take up the saved state, if there is one, and drop metrics that were logged after it.

        The first rank looks into the folder, alone: another's disk may show other files, or older ones.
        """
        files = [self.run.path(name) for name in (state.STEP, state.FILE, state.PREVIOUS)]
        is_there = processes.told_by_first(lambda: any(path.exists() for path in files))
        damaged = self.state.restore(*files) if is_there else []
        processes.told_by_first(lambda: self._tidy(damaged))

    def _tidy(self, damaged: Sequence[Path]) -> None:
        """Make the folder that of the state that was taken up."""
        for path in damaged:
            self.run.remove(path.name)  # it would take the place of the one before
        done = self.state.record.epochs_done
        self.run.metrics()  # damage is said now, not after another day of training
        if self.run.record.epochs_done != done:
            self.run.update(epochs_done=done)
        self.run.truncate_metrics(done)

    def _is_out_of_patience(self) -> bool:
        patience, done = self.recipe.optimizer.patience, self.state.record
        return patience is not None and done.epochs_done - done.best_epoch >= patience

    @contextlib.contextmanager
    def _layers_draw_for(self, epoch: int) -> Iterator[None]:
        """Seed what layers draw (dropout) by (seed, epoch); the caller's random state comes back."""
        seed = noise.generator_for(self.recipe.seed, epoch, _LAYERS).initial_seed()
        with noise.torch_seeded(seed, self.fabric.device):
            yield

    def _train_epoch(self, epoch: int) -> None:
        """Take the steps of one epoch that are left, and finish it.

        A signal waits for the end of a step, and finds the training state as it is then on the disk.
        """
        done = self.state.record
        spent = Stopwatch(done.step_seconds, done.step_cpu_seconds)
        batches = self.order(noise.generator_for(self.recipe.seed, epoch))
        self.model.train()
        with self._layers_draw_for(epoch):
            self._restore_partial_epoch()
            self._set_rate(epoch, max(0, done.step - 1), len(batches))
            for step in range(done.step, len(batches)):
                self._take_step(epoch, step, batches)
                if stopping.requested() and self.fabric.world_size == 1:
                    self._save_partial_epoch(step + 1, *spent.read())
                    stopping.check()
                elif self.partial_states.is_due and step + 1 < len(batches):
                    self.partial_states.start(self._partial_epoch(step + 1, *spent.read()))
            loss = mean_over_ranks(self.fabric, self.loss) / len(batches)
            seconds, cpu_seconds = spent.read()
            try:
                with stopping.interruptible():
                    same_buffers(self.model)  # as a resumed run has them
                    train, validation = (monitor(self.network) for monitor in self.monitors)
            except StoppedError:
                self._save_partial_epoch(len(batches), seconds, cpu_seconds)
                raise
        perturbed, on_cpu = self.step.perturbs(epoch), self.fabric.device.type == "cpu"
        self._finish_epoch(
            EpochRecord(
                epoch=epoch + 1,
                lr=self.optimizer.param_groups[0]["lr"],
                seconds=seconds,
                cpu_seconds=cpu_seconds if on_cpu else math.nan,
                loss=loss,
                loss_measured=f"while training, at w{' + v' * perturbed}",
                perturbed=perturbed,
                train=train,
                validation=validation,
            )
        )

    def _take_step(self, epoch: int, step: int, batches: list[Tensor]) -> None:
        recipe, is_last = self.recipe, step + 1 == len(batches)
        self._set_rate(epoch, step, len(batches))
        self.step.following = None if is_last else batches[step + 1]
        self.loss += self.step(epoch, step, batches[step])
        self.schedule.after_step()
        if recipe.capacity is not None and ((step + 1) % recipe.capacity.every == 0 or is_last):
            bound_singular_values(self.model, recipe.capacity.low, recipe.capacity.high)
        if self.average is not None:
            self.average.update()
        if step % _CHECK_EVERY == 0 or is_last:
            mean = mean_over_ranks(self.fabric, self.loss) / (step + 1)
            self._check_loss(mean, epoch, step)
            at, steps = epoch * len(batches) + step + 1, len(batches) * recipe.optimizer.epochs
            note = f"epoch {epoch + 1}/{recipe.optimizer.epochs}, loss {mean:.3f}"
            self.listener(Event("train", at, steps, note))

    def _set_rate(self, epoch: int, step: int, steps: int) -> None:
        self.schedule.before_step((epoch + step / steps) / self.recipe.optimizer.epochs)

    def _save_partial_epoch(self, steps: int, seconds: float, cpu_seconds: float) -> None:
        """Write the state inside an epoch, of which so many steps are done."""
        self.partial_states.finish()
        self.run.write_bytes(state.STEP, self._partial_epoch(steps, seconds, cpu_seconds))

    def _partial_epoch(self, steps: int, seconds: float, cpu_seconds: float) -> bytes:
        """The state inside an epoch, of which so many steps are done, as a file."""
        device, record = self.fabric.device, self.state.record
        inside = {"loss": self.loss, "random": torch.get_rng_state()}
        if device.type == "cuda":
            inside["random.cuda"] = torch.cuda.get_rng_state(device)
        self.state.partial_epoch = inside | {f"step.{key}": value for key, value in self.step.memory.items()}
        self.state.record = replace(record, step=steps, step_seconds=seconds, step_cpu_seconds=cpu_seconds)
        return self.state.to_bytes()

    def _restore_partial_epoch(self) -> None:
        """Take up the state inside an epoch that was stopped, if it was."""
        inside, device = self.state.partial_epoch, self.fabric.device
        self.loss = torch.zeros((), device=device)
        if self.state.record.step:
            self.loss += inside["loss"].to(device)
            torch.set_rng_state(inside["random"])
            if "random.cuda" in inside:
                torch.cuda.set_rng_state(inside["random.cuda"], device)
            kept = state.under("step.", inside)  # of one process: its whole batch
            own = slice(self.fabric.global_rank, None, self.fabric.world_size)
            self.step.memory = {key: value[own].to(device) for key, value in kept.items()}

    def _check_loss(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise NumericsError(
                f"{self.run.folder}: the loss became {loss} in epoch {epoch + 1}, by step {step + 1}; "
                f"epoch {self.state.record.epochs_done} is kept; "
                f"lower optimizer.lr ({self.recipe.optimizer.lr:g})"
            )

    # -- ends of epochs --------------------------------------------------------------------------

    def _finish_epoch(self, epoch: EpochRecord) -> None:
        """Write the epoch's weights, its metrics and, last, the state."""
        if not all(torch.isfinite(parameter).all() for parameter in self.network.parameters()):
            raise NumericsError(
                f"{self.run.folder}: a weight is not finite after epoch {epoch.epoch}; lower optimizer.lr"
            )
        self.schedule.after_epoch(epoch)
        before, score = self.state.record, _score(epoch, self.recipe.objective)
        is_best, seconds = score > before.best_score, before.seconds + epoch.seconds
        self._write_weights(epoch.epoch, is_best)
        self.run.append_metrics(replace(epoch, best=is_best))
        done = replace(
            before, epochs_done=epoch.epoch, seconds=seconds, step=0, step_seconds=0.0, step_cpu_seconds=0.0
        )
        self.state.record = replace(done, best_score=score, best_epoch=epoch.epoch) if is_best else done
        self.state.partial_epoch = {}
        self.partial_states.finish()
        self.run.write_bytes(state.FILE, self.state.to_bytes(), previous=state.PREVIOUS)
        self.run.remove(state.STEP)
        self.run.update(epochs_done=epoch.epoch, train_seconds=seconds)
        epochs = self.recipe.optimizer.epochs
        note = f"epoch {epoch.epoch}/{epochs}, loss {epoch.loss:.3f}"
        at, total = epoch.epoch * self.steps, epochs * self.steps
        self.listener(Event("train", at, total, note, step=epoch.epoch, metrics=epoch.metrics))

    def _write_weights(self, epoch: int, is_best: bool) -> None:
        """Write the checkpoints that this epoch, counted from 1, is."""
        content = models.to_bytes(self.network, self.description, recipe=self.recipe.hash(), epoch=epoch)
        keep_every = self.recipe.keep_every
        if is_best:
            self.run.write_weights(BEST, content)
        self.run.write_weights(LAST, content)
        if keep_every is not None and epoch % keep_every == 0:
            self.run.write_weights(Checkpoint("epoch", epoch), content)


def _score(epoch: EpochRecord, objective: str) -> tuple[float, float]:
    """Validation accuracies, that which the objective is for first; without any, a later epoch is better.

    A standard network under attack is most robust in one of its first epochs, when it has learned little.
    """
    measured = epoch.validation
    if measured is None:
        return float(epoch.epoch - 1), 0.0
    scores = measured.robust, measured.clean
    return (scores[1], scores[0]) if objective == "standard" else scores
