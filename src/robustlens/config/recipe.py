"""Recipes: frozen values that determine a training run. Unknown keys are refused, and a recipe has a hash.

A number may be written as a fraction, `eps: 8/255`, in YAML, in Python and on the command line alike.
No torch here: a recipe can be read, compared and printed anywhere.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from robustlens.config.checkpoint import Checkpoint
from robustlens.config.names import Factory, code_in
from robustlens.config.optimizer import OptimizerSpec
from robustlens.config.values import (
    Number,
    Options,
    Values,
    canonical,
    leaves,
    norm_name,
    radius_problem,
)


class DataSpec(Values):
    """Images. `augment: auto` is the field's choice for the data set (crop and flip on CIFAR)."""

    name: str = "fashion-mnist-10k"
    data_dir: str | None = Field(default=None, exclude=True)
    """Folder of the files; not part of the hash, since the same data may lie elsewhere."""
    train_limit: int | None = Field(default=None, gt=0)
    test_limit: int | None = Field(default=None, gt=0)
    validation: Number = Field(default=0.1, ge=0, lt=1)
    augment: str = "auto"
    unlabeled: int = Field(default=0, ge=0)
    """Training images beyond `train_limit` whose labels are not looked at."""
    seed: int = 0
    """Seed of the subset and of the validation split, apart from the training seed."""


class ModelSpec(Values):
    """Architecture: a registered name or "package.module:factory", with its options."""

    name: str = "small-cnn"
    options: Options = {}


class ThreatSpec(Values):
    """The threat model that training defends against. eps 0 is standard training."""

    norm: Annotated[str, BeforeValidator(norm_name)] = "Linf"
    eps: Number = 0.1

    @model_validator(mode="after")
    def _eps_fits_the_box(self) -> "ThreatSpec":
        problem = radius_problem(self.norm, self.eps)
        if problem:
            raise ValueError(f"eps: {problem}")
        return self


class AttackSpec(Values):
    """The inner attack of training (PGD-10, the field's default)."""

    steps: int = Field(default=10, ge=1)
    step_size: Number | None = Field(default=None, gt=0)
    """None: eps/4 for Linf (2/255 at 8/255), 15/128 eps for L2."""
    random_start: bool = True
    model_mode: Literal["eval", "train"] = "eval"
    replays: int = Field(default=1, ge=1)
    """Above 1: "free" adversarial training, which takes each batch so many times, with steps of eps."""


class PerturbationSpec(Values):
    """A perturbation of the weights, once the epochs of its warm-up are over."""

    warmup_epochs: int = Field(default=0, ge=0)
    from_attack: bool = False
    """Take the gradient from the attack's last backward pass instead of a pass of its own."""

    def entry(self, field: str) -> tuple[str, dict[str, Any]]:
        """Name and options, in `weights.PERTURBATIONS`, of what the recipe's `field` asks for."""
        return field, self.model_dump(exclude=set(PerturbationSpec.model_fields))


class AWPSpec(PerturbationSpec):
    """Adversarial weight perturbation (Wu, Xia and Wang 2020)."""

    gamma: Number = Field(default=0.01, ge=0)
    steps: int = Field(default=1, ge=1)
    """Weight steps of each alternation (K2)."""
    alternations: int = Field(default=1, ge=1)
    """Rounds of images and weights (A)."""
    images: Literal["all", "small-loss", "large-loss"] = "all"
    """Images whose gradient perturbs the weights, by their loss (Yu et al. 2022, IJCAI)."""
    loss_threshold: Number | None = Field(default=None, gt=0)
    """Largest small loss, in nats of the objective."""

    @model_validator(mode="after")
    def _attack_gives_one_step(self) -> "AWPSpec":
        if self.from_attack and self.steps * self.alternations > 1:
            raise ValueError("from_attack: the attack gives one step; found steps or alternations above 1")
        if self.from_attack and self.images != "all":
            raise ValueError(f"from_attack: the attack's gradient is of all images; found {self.images}")
        return self

    @model_validator(mode="after")
    def _threshold_goes_with_a_choice(self) -> "AWPSpec":
        if (self.images == "all") != (self.loss_threshold is None):
            raise ValueError(
                "loss_threshold: found without images, or the other way; give both (images: small-loss or "
                "large-loss) or none"
            )
        return self


class RWPSpec(PerturbationSpec):
    """Random weight perturbation."""

    gamma: Number = Field(default=0.01, ge=0)


class SAMSpec(PerturbationSpec):
    """Sharpness-aware minimization (Foret et al. 2021)."""

    rho: Number = Field(default=0.05, ge=0)


class FactoryPerturbationSpec(PerturbationSpec):
    """A perturbation of the user's own: a subclass of `weights.WeightPerturbation`, by where it lies."""

    factory: Factory
    """As "package.module:Class"."""
    options: Options = {}

    def entry(self, field: str) -> tuple[str, dict[str, Any]]:
        """The factory, and its options as they were given."""
        return self.factory, self.options


class InitSpec(Values):
    """Start from the weights of another network, of this architecture."""

    model: str
    """A run folder or a file of weights. Its content is no part of the hash, but bound to the run's state."""
    checkpoint: Annotated[str, BeforeValidator(lambda text: str(Checkpoint.parse(text)))] = "best"
    """best, last, or one that `keep_every` of its recipe kept: epoch-0010."""
    new_head: bool = False
    """Start the last linear layer afresh, as it must be where the classes differ."""


class CapacitySpec(Values):
    """Range that the singular values of the weights are held to: strengths then compare at one capacity.

    `low` 0 caps the spectral norm alone; `low` 1/(1 + xi) and `high` 1 + xi are singular value bounding
    (Jia et al. 2017).
    """

    low: Number = Field(default=0.0, ge=0)
    high: Number = Field(default=1.0, gt=0)
    every: int = Field(default=50, ge=1)
    """Steps between two projections; the last step of an epoch always projects."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "CapacitySpec":
        if self.low > self.high:
            raise ValueError(f"low: found {self.low:g}, expected at most high ({self.high:g})")
        return self


class PseudoLabelSpec(Values):
    """RST (Carmon et al. 2019): a standard network labels the unlabeled images, and training mixes both."""

    share: Number = Field(default=0.5, gt=0, lt=1)
    """Of every batch."""
    teacher: OptimizerSpec = OptimizerSpec()
    """Training of the standard network, on the labelled images."""


class MonitorSpec(Values):
    """Measurements after every epoch, on fixed images, at w, in eval mode, without augmentation."""

    examples: int = Field(default=512, ge=1)
    steps: int = Field(default=10, ge=1)


class Recipe(Values):
    """Everything that determines one training run."""

    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    threat: ThreatSpec = ThreatSpec()
    objective: str = "at"
    objective_options: Options = {}
    attack: AttackSpec = AttackSpec()
    awp: AWPSpec | None = None
    rwp: RWPSpec | None = None
    sam: SAMSpec | None = None
    weight_perturbation: FactoryPerturbationSpec | None = None
    """A perturbation of your own, in place of those three."""
    mixup: Number | None = Field(default=None, gt=0)
    """Parameter of mixup's Beta distribution (Zhang et al. 2018); None for none."""
    pseudo_labels: PseudoLabelSpec | None = None
    init: InitSpec | None = None
    ema: Number | None = Field(default=None, gt=0, lt=1)
    """Decay of the weight average that is evaluated and saved; None for none."""
    capacity: CapacitySpec | None = None
    optimizer: OptimizerSpec = OptimizerSpec()
    monitor: MonitorSpec = MonitorSpec()
    keep_every: int | None = Field(default=None, ge=1)
    """Also keep the weights of every so many epochs, as `epoch-0010.safetensors`."""
    precision: Literal["32-true", "tf32", "bf16-mixed"] = "32-true"
    """tf32: float32 whose products a GPU may take in TF32; 32-true is IEEE float32 there too."""
    sync_batch_norm: bool = False
    """In several processes, normalise by the batch of all of them, not by each one's share."""
    compile: bool = False
    """Let torch compile the network and the attack's step: pays on a GPU, and costs a minute at the start."""
    fast: bool = False
    """Give up equal bits on CUDA for speed: algorithms chosen by trial, sums in any order, CUDA graphs."""
    seed: int = Field(default=0, ge=0, lt=1 << 62)
    listeners: tuple[Factory, ...] = Field(default=(), exclude=True)
    """Functions or classes of yours, as "package.module:name", that hear every event of training. They change
    no result, so they are no part of the hash and not saved."""

    @property
    def perturbations(self) -> dict[str, PerturbationSpec]:
        """The perturbations of the weights that are asked for, by field; a valid recipe has one at most."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: spec for name, spec in fields if isinstance(spec, PerturbationSpec)}

    @property
    def perturbation(self) -> PerturbationSpec | None:
        """The one perturbation of the weights, if any."""
        return next(iter(self.perturbations.values()), None)

    @property
    def unperturbed(self) -> "Recipe":
        """The same recipe without a perturbation of the weights."""
        return self.model_copy(update=dict.fromkeys(self.perturbations))

    @field_validator("precision", mode="before")
    @classmethod
    def _refuse_half(cls, precision: object) -> object:
        if isinstance(precision, str) and precision in ("16", "fp16", "half", "16-mixed", "16-true"):
            raise ValueError(
                f": found {precision!r}, expected 32-true, tf32 or bf16-mixed: in float16, gradients of "
                "images vanish where the network is sure, and a loss scale for weights does not help them"
            )
        return precision

    @model_validator(mode="after")
    def _parts_go_together(self) -> "Recipe":
        asked = list(self.perturbations)
        if len(asked) > 1:
            raise ValueError(f"{asked[1]}: found beside {asked[0]}, expected one perturbation of the weights")
        if self.attack.replays > 1 and (asked or self.mixup or self.optimizer.accumulate > 1):
            raise ValueError("attack.replays: free training goes with no awp, rwp, sam, mixup or accumulate")
        if (self.pseudo_labels is None) != (self.data.unlabeled == 0):
            raise ValueError(
                "pseudo_labels: found without data.unlabeled, or the other way; give both or none"
            )
        return self

    @property
    def names_code(self) -> bool:
        """Whether a field names code from outside: a "package.module:factory", or code of the Hub."""
        return next(code_in(self.model_dump(mode="json")), None) is not None

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this recipe.

        Fields at their default are left out, so that a field added later changes no hash. A default must
        therefore never change: a better value becomes a new name.
        """
        values = canonical(self.model_dump(mode="json", exclude_defaults=True))
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def difference(self, other: "Recipe") -> str:
        """The fields in which two recipes differ, as "field: theirs -> mine"; empty where their hashes agree.

        Values are compared as the hash has them: true is not 1, and an empty mapping is not nothing.
        """
        if self.hash() == other.hash():
            return ""
        mine, theirs = (dict(leaves(canonical(recipe.model_dump(mode="json")))) for recipe in (self, other))

        def differs(path: tuple[str, ...]) -> bool:
            one, another = (json.dumps(values.get(path), sort_keys=True) for values in (mine, theirs))
            return one != another or (path in mine) != (path in theirs)

        changed = filter(differs, {**theirs, **mine})
        return ", ".join(f"{'.'.join(path)}: {theirs.get(path)!r} -> {mine.get(path)!r}" for path in changed)
