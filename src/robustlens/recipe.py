"""Recipes: frozen values that determine a result. Unknown keys are refused, and a recipe has a hash.

A number may be written as a fraction, `eps: 8/255`, in YAML, in Python and on the command line alike.
No torch here: a recipe can be read, compared and printed anywhere.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from robustlens.errors import ConfigError


def norm_name(text: str) -> str:
    """The norm's one name here ("Linf", "L2", "L1") for any usual spelling; `ConfigError` otherwise.

    >>> norm_name("l_inf"), norm_name("l2")
    ('Linf', 'L2')
    """
    known = {"linf": "Linf", "inf": "Linf", "l2": "L2", "2": "L2", "l1": "L1", "1": "L1"}
    found = known.get(re.sub(r"[_\-\s]", "", str(text)).lower())
    if found is None:
        raise ConfigError(f"norm: found {text!r}, expected Linf, L2 or L1")
    return found


def checkpoint_name(text: str, *, several: tuple[str, ...] = ("both", "every")) -> str:
    """A name of one or, if in `several`, more checkpoints, a kept epoch in full; `ConfigError` for any other.

    >>> checkpoint_name("both"), checkpoint_name("epoch-10")
    ('both', 'epoch-0010')
    """
    kept = re.fullmatch(r"epoch-(\d+)", str(text))
    if kept:
        return f"epoch-{int(kept[1]):04d}"
    known = ("best", "last", *several)
    if text not in known:
        raise ConfigError(f"checkpoint: found {text!r}, expected {', '.join(known)} or epoch-NNNN")
    return text


def number(text: Any) -> Any:
    """A float from a number or a fraction such as "8/255"; anything else is passed on for pydantic to refuse.

    >>> number("8/255") == 8 / 255
    True
    """
    if isinstance(text, str) and re.fullmatch(r"\s*[-+.\deE]+\s*(/\s*[.\d]+\s*)?", text):
        top, _, bottom = text.partition("/")
        try:
            return float(Fraction(top.strip()) / Fraction(bottom.strip() or "1"))
        except (ValueError, ZeroDivisionError):
            return text
    return text


def eps_text(eps: float) -> str:
    """A radius as people write it: 0.1, or 8/255.

    >>> eps_text(0.1), eps_text(8 / 255), eps_text(0.123456)
    ('0.1', '8/255', '0.1235')
    """
    if abs(eps - round(eps, 3)) < 1e-9:
        return f"{eps:g}"
    if abs(eps * 255 - round(eps * 255)) < 1e-6:
        return f"{round(eps * 255)}/255"
    return f"{eps:.4g}"


Number = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]


def radius_problem(norm: str, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> str | None:
    """What is wrong with this radius, in words, or None.

    An Linf ball wider than the pixel box almost always is a radius written in 0..255 units.
    """
    width = bounds[1] - bounds[0]
    if not 0 <= eps < float("inf"):
        return f"found {eps}, expected a finite number >= 0"
    if norm == "Linf" and eps > width:
        likely = f"{eps:g}/255 = {eps / 255 * width:.4g}"
        return f"found {eps:g}, which reaches any image on pixels in {list(bounds)}; did you mean {likely}?"
    return None


class Values(BaseModel):
    """Base of every part of a recipe: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(Values):
    """Which images. `augment: auto` is the field's choice for the data set (crop and flip on CIFAR)."""

    name: str = "fashion-mnist-10k"
    data_dir: str | None = Field(default=None, exclude=True)
    """Where the files lie; not part of the hash, since the same data may lie elsewhere."""
    train_limit: int | None = Field(default=None, gt=0)
    test_limit: int | None = Field(default=None, gt=0)
    validation: Number = Field(default=0.1, ge=0, lt=1)
    augment: str = "auto"
    unlabeled: int = Field(default=0, ge=0)
    """Training images beyond `train_limit` whose labels are not looked at."""
    seed: int = 0
    """Seed of the subset and of the validation split, apart from the training seed."""


class ModelSpec(Values):
    """Which architecture: a registered name or "package.module:factory", with its options."""

    name: str = "small-cnn"
    options: dict[str, Any] = {}


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


class AWPSpec(PerturbationSpec):
    """Adversarial weight perturbation (Wu, Xia and Wang 2020)."""

    gamma: Number = Field(default=0.01, ge=0)
    steps: int = Field(default=1, ge=1)
    """Weight steps of each alternation (K2)."""
    alternations: int = Field(default=1, ge=1)
    """Rounds of images and weights (A)."""
    from_attack: bool = False
    """Take the gradient from the attack's last backward pass instead of a pass of its own."""

    @model_validator(mode="after")
    def _attack_gives_one_step(self) -> "AWPSpec":
        if self.from_attack and self.steps * self.alternations > 1:
            raise ValueError("from_attack: the attack gives one step; found steps or alternations above 1")
        return self


class RWPSpec(PerturbationSpec):
    """Random weight perturbation."""

    gamma: Number = Field(default=0.01, ge=0)


class SAMSpec(PerturbationSpec):
    """Sharpness-aware minimization (Foret et al. 2021)."""

    rho: Number = Field(default=0.05, ge=0)


class InitSpec(Values):
    """Where the weights start: those of another network, of this architecture."""

    model: str
    """A run folder or a file of weights. Its content is no part of the hash, but bound to the run's state."""
    checkpoint: Annotated[str, BeforeValidator(partial(checkpoint_name, several=()))] = "best"
    """best, last, or one that `keep_every` of its recipe kept: epoch-0010."""
    new_head: bool = False
    """Start the last linear layer afresh, as it must be where the classes differ."""


class CapacitySpec(Values):
    """What the singular values of the weights are held to, so that strengths compare at one capacity.

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


class OptimizerSpec(Values):
    """SGD with momentum and a schedule over steps."""

    lr: Number = Field(default=0.1, gt=0)
    momentum: Number = Field(default=0.9, ge=0, lt=1)
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
    schedule: Literal["piecewise", "cosine", "one-cycle", "constant"] = "piecewise"
    milestones: tuple[Number, ...] = (0.5, 0.75)
    """Piecewise: where the rate is divided by 10, as shares of the epochs (100 and 150 of 200)."""
    warmup: Number = Field(default=0.3, ge=0, lt=1)
    """One-cycle: share of the steps that climb to `lr`."""


class PseudoLabelSpec(Values):
    """RST (Carmon et al. 2019): a standard network labels the unlabeled images, and training mixes both."""

    share: Number = Field(default=0.5, gt=0, lt=1)
    """Of every batch."""
    teacher: OptimizerSpec = OptimizerSpec()
    """How the standard network is trained, on the labelled images."""


class MonitorSpec(Values):
    """What is measured after every epoch, on fixed images, at w, in eval mode, without augmentation."""

    examples: int = Field(default=512, ge=1)
    steps: int = Field(default=10, ge=1)


class Recipe(Values):
    """Everything that determines one training run."""

    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    threat: ThreatSpec = ThreatSpec()
    objective: str = "at"
    objective_options: dict[str, Any] = {}
    attack: AttackSpec = AttackSpec()
    awp: AWPSpec | None = None
    rwp: RWPSpec | None = None
    sam: SAMSpec | None = None
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
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    """Let torch compile the network for training: pays on a GPU, and costs a minute at the start."""
    seed: int = Field(default=0, ge=0, lt=1 << 62)

    @property
    def perturbation(self) -> PerturbationSpec | None:
        """The one perturbation of the weights, if any."""
        return self.awp or self.rwp or self.sam

    @model_validator(mode="after")
    def _parts_go_together(self) -> "Recipe":
        asked = [name for name in ("awp", "rwp", "sam") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ValueError(f"{asked[1]}: found beside {asked[0]}, expected one perturbation of the weights")
        if self.attack.replays > 1 and (asked or self.mixup or self.optimizer.accumulate > 1):
            raise ValueError("attack.replays: free training goes with no awp, rwp, sam, mixup or accumulate")
        if (self.pseudo_labels is None) != (self.data.unlabeled == 0):
            raise ValueError(
                "pseudo_labels: found without data.unlabeled, or the other way; give both or none"
            )
        return self

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this recipe.

        Fields at their default are left out, so that a field added later changes no hash. A default must
        therefore never change: a better value becomes a new name.
        """
        values = _canonical(self.model_dump(mode="json", exclude_defaults=True))
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def difference(self, other: "Recipe") -> str:
        """The fields in which two recipes differ, as "field: theirs -> mine"; empty if they agree."""
        mine, theirs = (_flat(recipe.model_dump(mode="json")) for recipe in (self, other))
        missing = object()
        changed = [key for key in {**theirs, **mine} if mine.get(key, missing) != theirs.get(key, missing)]
        return ", ".join(f"{key}: {theirs.get(key)!r} -> {mine.get(key)!r}" for key in changed)


class Plan(Values):
    """Base of what is done to the checkpoints of a run.

    `checkpoint` is "best", "last" or one that `keep_every` kept, "epoch-0010"; "both" means the best, and
    the last beside it; "every" the kept ones as well.
    """

    checkpoint: Annotated[str, BeforeValidator(checkpoint_name)] = "best"

    def of_checkpoints(self: "SomePlan", kept: Sequence[str] = ()) -> "dict[str, SomePlan]":
        """This plan for each checkpoint of a run that kept these, by what ends the name of the result.

        >>> list(Plan(checkpoint="every").of_checkpoints(["epoch-0010"]))
        ['', '-last', '-epoch-0010']
        """
        if self.checkpoint not in ("both", "every"):
            return {"": self}
        others = ["last", *(kept if self.checkpoint == "every" else ())]
        endings = {"": "best"} | {f"-{name}": name for name in others}
        return {ending: self.model_copy(update={"checkpoint": name}) for ending, name in endings.items()}


SomePlan = TypeVar("SomePlan", bound=Plan)


class EvaluationPlan(Plan):
    """How models are attacked: the same on training and test images."""

    threat: ThreatSpec = ThreatSpec()
    attacks: tuple[str, ...] = ("fgsm", "pgd-20", "cw-20")
    restarts: int = Field(default=1, ge=1)
    test_examples: int | None = Field(default=None, gt=0)
    train_examples: int | None = Field(default=None, gt=0)
    curve: tuple[Number, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    """Radii of the robust-accuracy curve as multiples of eps; 0 is always there."""
    batch_size: int = Field(default=256, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """What attacks search in; what counts is decided in float32 and float64."""
    save_adversarial: bool = False
    seed: int = 0


class ExplanationPlan(Plan):
    """What is measured of a trained network, and on how many images."""

    measures: tuple[str, ...] = ("spectrum", "activations", "margins", "smoothness", "landscape")
    examples: int = Field(default=1000, ge=1)
    options: dict[str, dict[str, Any]] = {}
    """Options by measure, e.g. `landscape: {draws: 2, examples: 256}`."""
    batch_size: int = Field(default=256, ge=1)
    seed: int = 0


Kind = TypeVar("Kind", bound=Values)


def checked(kind: type[Kind], values: Any, where: str) -> Kind:
    """Build `kind` from untrusted `values`; pydantic's report becomes one `ConfigError` line.

    >>> checked(SAMSpec, {"ro": 1}, "sam")
    Traceback (most recent call last):
    ...
    robustlens.errors.ConfigError: sam.ro: unknown key, found 1; expected one of warmup_epochs, rho
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a mapping")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error, where, kind)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, through the safe loader.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected a mapping of fields")
    return values


def one_line(error: ValidationError, where: str, kind: type[BaseModel]) -> str:
    """The first problem that pydantic found, as field, value found and value expected."""
    problem = error.errors()[0]
    place = ".".join([where, *(str(part) for part in problem["loc"])]).strip(".")
    if problem["type"] == "extra_forbidden":
        names = ", ".join(_fields(kind, problem["loc"][:-1]))
        return f"{place}: unknown key, found {problem['input']!r}; expected one of {names}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "value_error":  # one of our own checks, which says what it found
        return f"{place}.{problem['ctx']['error']}"
    message = problem["msg"]
    return f"{place}: found {problem['input']!r}; {message[:1].lower() + message[1:]}{more}"


def _fields(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """Field names of the part of `kind` at `place`."""
    for part in place:
        field = kind.model_fields.get(part) if hasattr(kind, "model_fields") else None
        if field is None:
            return ["the documented keys"]
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return list(kind.model_fields) if kind is not None else ["the documented keys"]


def _canonical(value: Any) -> Any:
    """One spelling for equal numbers: 6.0 is 6."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, dict)
        flat.update(_flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value})
    return flat
