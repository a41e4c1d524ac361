"""Objectives: what training minimises, per example.

An objective receives x_adv and never crafts it, so that weight perturbation, landscapes and gap
measurements can evaluate it at other weights without a new attack. It says which loss its inner attack
climbs, and which attack that is. To add one: a frozen dataclass here and a line in `OBJECTIVES`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import FGSM, PGD, Attack
from robustlens.errors import ConfigError
from robustlens.recipe import AttackSpec
from robustlens.threat import ThreatModel

InnerAttack = Callable[[ThreatModel, AttackSpec], Attack]


@runtime_checkable
class Objective(Protocol):
    """A per-example training loss, and the attack that makes its x_adv."""

    @property
    def inner_attack(self) -> InnerAttack | None:
        """Builds the attack of training, or None where training sees clean images only."""

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        x_adv: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """Loss of each example, in nats."""


def climb(loss: str) -> InnerAttack:
    """PGD on `loss` as training runs it: the last iterate counts, and no forward pass judges it."""

    def build(threat: ThreatModel, spec: AttackSpec) -> Attack:
        return PGD(
            threat,
            steps=spec.steps,
            step_size=spec.step_size,
            random_start=spec.random_start,
            loss=loss,
            model_mode=spec.model_mode,
            keep="last",
        )

    return build


def one_random_step(threat: ThreatModel, spec: AttackSpec) -> Attack:
    """FGSM from a random start with step 1.25 eps (Wong, Rice and Kolter 2020, section 4).

    Steps and step size of the recipe's attack are PGD's and do not enter.
    """
    step_size = 1.25 * threat.eps if threat.eps else None
    return FGSM(threat, step_size=step_size, random_start=True, model_mode=spec.model_mode)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy on one batch of images: standard training on x, adversarial training on x_adv.

    `at` is adversarial training (Madry et al. 2018, eq. 2.1); `fgsm` is the same with a one-step attack.
    """

    inner_attack: InnerAttack | None
    label_smoothing: float = 0.0

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        x_adv: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """Cross entropy of each example, in nats."""
        images = x if self.inner_attack is None else x_adv
        return losses.smoothed_cross_entropy(model(images), y, self.label_smoothing)


@dataclass(frozen=True)
class TRADES:
    """CE(x) + beta KL(p(x) || p(x_adv)) (Zhang et al. 2019, eq. 5; beta is their 1/lambda).

    Differs from the authors' code: the inner attack starts uniformly in the ball, not at 0.001 Gaussian
    noise around x, so that every objective here shares one start.
    """

    beta: float = 6.0
    label_smoothing: float = 0.0
    inner_attack: InnerAttack | None = field(default=climb("kl"), repr=False)

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        x_adv: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """TRADES loss of each example, in nats."""
        logits = model(x)
        natural = losses.smoothed_cross_entropy(logits, y, self.label_smoothing)
        return natural + self.beta * losses.kl(model(x_adv), logits)


@dataclass(frozen=True)
class MART:
    """BCE(x_adv) + beta (1 - p_y(x)) KL(p(x) || p(x_adv)) (Wang et al. 2020, eq. 11).

    BCE is -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)): the second term pushes the runner-up down.
    Logarithms are taken from log-softmax with a floor of 1e-4 on 1 - p (the authors add 1e-4 inside).
    """

    beta: float = 5.0
    inner_attack: InnerAttack | None = field(default=climb("ce"), repr=False)

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        x_adv: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """MART loss of each example, in nats."""
        logits_adv, logits = model(x_adv), model(x)
        p_adv = logits_adv.softmax(1)
        runner_up = p_adv.scatter(1, y[:, None], 0.0).amax(1)
        boosted = losses.cross_entropy(logits_adv, y) - torch.log(1.0 + 1e-4 - runner_up)
        p_true = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
        return boosted + self.beta * (1.0 - p_true) * losses.kl(logits_adv, logits)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "standard": lambda label_smoothing=0.0: CrossEntropy(None, label_smoothing),
    "fgsm": lambda label_smoothing=0.0: CrossEntropy(one_random_step, label_smoothing),
    "at": lambda label_smoothing=0.0: CrossEntropy(climb("ce"), label_smoothing),
    "trades": TRADES,
    "mart": MART,
}
"""Objectives by name; the arguments are the options that a recipe may give."""


def get(name: str, **options: Any) -> Objective:
    """The objective `name` with `options`, e.g. `get("trades", beta=6.0)`.

    Raises:
        ConfigError: unknown name or option, or an option that is not a number in range.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: found {name!r}, expected one of {', '.join(OBJECTIVES)}")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            expected = f"expected one of {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"objective_options.{option}: unknown option of {name!r}; {expected}")
        top = 1.0 if option == "label_smoothing" else float("inf")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < top:
            raise ConfigError(
                f"objective_options.{option}: found {value!r}, expected a number in [0, {top:g})"
            )
    return OBJECTIVES[name](**options)


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options of a registered objective."""
    return tuple(p for p in inspect.signature(OBJECTIVES[name]).parameters if p != "inner_attack")
