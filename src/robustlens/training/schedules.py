"""Learning rates over a run: formulas of our own, and schedulers of torch."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch.optim import lr_scheduler

from robustlens.config import OptimizerSpec
from robustlens.config.optimizer import SCHEDULES, TORCH_SCHEDULES
from robustlens.registry import Registry
from robustlens.results import EpochRecord

_BY_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)  # the others go by epochs
TORCH: Registry[Any] = Registry(
    "optimizer.schedule",
    {name: getattr(lr_scheduler, name) for name in TORCH_SCHEDULES},
    hidden=("optimizer", "last_epoch", "verbose", "scale_fn", "scale_mode", "mode"),
    factories=True,
    result_type=lr_scheduler.LRScheduler,
    required=True,
)
"""Schedulers of torch by name; a factory of yours is called with the optimizer and its options."""


@runtime_checkable
class Schedule(Protocol):
    """The learning rate of an optimizer over the steps of a run."""

    def before_step(self, done: float) -> None:
        """Set the rate of a step; a share `done`, in [0, 1), of all steps is done."""

    def after_step(self) -> None:
        """Note that a step is done."""

    def after_epoch(self, epoch: EpochRecord) -> None:
        """Note that an epoch is done, and what was measured."""

    def values(self) -> dict[str, Any]:
        """What changes over the run, as plain values."""

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up values of before."""


def schedule_for(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
    """The schedule that a recipe asks for, over epochs of so many steps.

    Raises:
        ConfigError: unknown options, or options that torch refuses.
    """
    if spec.schedule in SCHEDULES:
        return FormulaSchedule(spec, optimizer)
    by_name: dict[str, dict[str, Any]] = {
        "CosineAnnealingLR": {"T_max": spec.epochs},
        "CyclicLR": {"max_lr": spec.lr, "cycle_momentum": "momentum" in optimizer.defaults},
        "OneCycleLR": {"max_lr": spec.lr, "total_steps": spec.epochs * steps},
        "PolynomialLR": {"total_iters": spec.epochs},
    }
    usual = by_name.get(spec.schedule, {})
    where = "optimizer.schedule_options"
    options = TORCH.checked(spec.schedule, {**usual, **spec.schedule_options}, where)
    # A scheduler of torch may refuse its options, too: then it is the user's error, like a factory's.
    return TorchSchedule(TORCH.call(spec.schedule, TORCH.find(spec.schedule), optimizer, **options))


class FormulaSchedule:
    """A schedule that is a formula of the share of the run that is done."""

    def __init__(self, spec: OptimizerSpec, optimizer: torch.optim.Optimizer) -> None:
        self.spec, self.optimizer = spec, optimizer

    def before_step(self, done: float) -> None:
        """Set the rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.spec, done)

    def after_step(self) -> None:
        """Nothing."""

    def after_epoch(self, epoch: EpochRecord) -> None:
        """Nothing."""

    def values(self) -> dict[str, Any]:
        """None: it has no state."""
        return {}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Nothing."""


class TorchSchedule:
    """A scheduler of torch: `OneCycleLR` and `CyclicLR` go on after each step, others after each epoch.

    `ReduceLROnPlateau` looks at the validation error under the monitor's attack.
    """

    def __init__(self, scheduler: lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler
        # After a stop at the end of an epoch, no step comes before the scheduler's: torch would warn.
        vars(scheduler.optimizer)["_opt_called"] = True

    def before_step(self, done: float) -> None:
        """Nothing: the rate was set after the step before."""

    def after_step(self) -> None:
        """Go on, where the scheduler goes by steps."""
        if isinstance(self.scheduler, _BY_STEP):
            self.scheduler.step()

    def after_epoch(self, epoch: EpochRecord) -> None:
        """Go on, where the scheduler goes by epochs."""
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            assert epoch.validation is not None  # `checks` refuses it
            self.scheduler.step(1 - epoch.validation.robust)
        elif not isinstance(self.scheduler, _BY_STEP):
            self.scheduler.step()

    def values(self) -> dict[str, Any]:
        """The scheduler's numbers and words, and those of the schedulers inside it."""
        return _values(self.scheduler)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take them up."""
        _restore(self.scheduler, values)


def _values(scheduler: Any) -> dict[str, Any]:
    own = {name: value for name, value in vars(scheduler).items() if _is_plain(value)}
    inside = getattr(scheduler, "_schedulers", [])
    return own | ({"_schedulers": [_values(each) for each in inside]} if inside else {})


def _restore(scheduler: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name == "_schedulers":
            for each, of_each in zip(scheduler._schedulers, value, strict=True):
                _restore(each, of_each)
        else:
            before = getattr(scheduler, name, None)
            setattr(scheduler, name, tuple(value) if isinstance(before, tuple) else value)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(each, int | float) for each in value)
    return value is None or isinstance(value, int | float | str)


def learning_rate(spec: OptimizerSpec, done: float) -> float:
    """Learning rate when a share `done`, in [0, 1), of all steps is done.

    piecewise: divided by 10 at each milestone. cosine: half a cosine down to zero. one-cycle: a line up to
    `lr` over the `warmup` share, then a line down to zero (Smith 2018, in the linear form of fast AT).
    """
    if spec.schedule == "piecewise":
        return spec.lr * 0.1 ** sum(done >= milestone for milestone in spec.milestones)
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * done))
    if spec.schedule == "one-cycle":
        rising = done < spec.warmup
        return spec.lr * (done / spec.warmup if rising else (1 - done) / (1 - spec.warmup))
    return spec.lr
