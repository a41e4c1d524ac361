"""The optimizer of a recipe, and the schedule of its learning rate."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from robustlens.config.values import Number, Options, Values
from robustlens.factories import is_factory
from robustlens.registry import near_name

OPTIMIZERS = ("sgd", "adam", "adamw")
"""Optimizers by name."""
SCHEDULES = ("piecewise", "cosine", "one-cycle", "constant")
"""Schedules over the steps of a run, of our own."""
TORCH_SCHEDULES = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "StepLR",
)
"""Schedulers of `torch.optim.lr_scheduler` whose options can be written in a file."""


class OptimizerSpec(Values):
    """An optimizer, SGD with momentum unless named, and a schedule of its learning rate."""

    name: str = "sgd"
    """Or adam, adamw, or "package.module:factory": called with the parameters, lr, weight_decay, options."""
    options: Options = {}
    """Of another optimizer than sgd, e.g. {betas: [0.9, 0.95]}."""
    lr: Number = Field(default=0.1, gt=0)
    momentum: Number = Field(default=0.9, ge=0, lt=1)
    """Of sgd, as is `nesterov`."""
    nesterov: bool = False
    weight_decay: Number = Field(default=5e-4, ge=0)
    l1: Number = Field(default=0.0, ge=0)
    """Factor of the L1 norm of the weights, whose gradient is taken at w as that of weight decay is."""
    batch_size: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches of each batch, whose gradients are added up."""
    epochs: int = Field(default=30, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation robust accuracy; None: never."""
    schedule: str = "piecewise"
    """Or cosine, one-cycle, constant, a scheduler of torch by its name, or "package.module:factory"."""
    schedule_options: Options = {}
    """Of a scheduler of torch's or your own, e.g. {step_size: 30}."""
    milestones: tuple[Annotated[Number, Field(gt=0, le=1)], ...] = (0.5, 0.75)
    """Piecewise: where the rate is divided by 10, as shares of the epochs (100 and 150 of 200)."""
    warmup: Number = Field(default=0.3, ge=0, lt=1)
    """One-cycle: share of the steps that climb to `lr`."""

    @field_validator("name")
    @classmethod
    def _is_an_optimizer(cls, name: str) -> str:
        return _known(name, OPTIMIZERS)

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, name: str) -> str:
        return _known(name, (*SCHEDULES, *TORCH_SCHEDULES))

    @model_validator(mode="after")
    def _options_are_of_what_is_named(self) -> "OptimizerSpec":
        if self.name != "sgd" and (self.momentum != 0.9 or self.nesterov):
            field = "nesterov" if self.nesterov else "momentum"
            raise ValueError(f"{field}: found beside {self.name}, expected sgd; give its own in options")
        if self.name in ("adam", "adamw") and "lr" not in self.model_fields_set:
            raise ValueError(
                f"lr: found none for {self.name}, expected one, such as 0.001: 0.1 is that of sgd"
            )
        if self.schedule in SCHEDULES and self.schedule_options:
            named = ", ".join(self.schedule_options)
            raise ValueError(f"schedule_options: found {named} beside {self.schedule}, which takes none")
        return self

    @model_validator(mode="after")
    def _a_batch_has_its_parts(self) -> "OptimizerSpec":
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate: found {self.accumulate}, expected at most batch_size ({self.batch_size})"
            )
        return self


def _known(name: str, names: tuple[str, ...]) -> str:
    """The name, if it is one of these or "package.module:factory"."""
    if name in names or is_factory(name):
        return name
    listed = (*names, "package.module:factory")
    raise ValueError(f": found {name!r}, expected one of {', '.join(listed)}{near_name(name, listed)}")
