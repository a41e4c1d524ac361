"""Settings of attacks that are tried several times: from other beginnings, or towards one class at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.inputs import ImagesLike, LabelsLike, checked_inputs
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel, checked_threat

_Same = TypeVar("_Same", bound="Restarts")
_SameTargeted = TypeVar("_SameTargeted", bound="TargetedRestarts")


@dataclass(frozen=True)
class Restarts(ABC):
    """Independent tries of an attack, each from a beginning of its own; all by keyword.

    Args:
        restarts: number of tries; each goes on only with the images that no try has broken yet.
        seed: base of the random numbers where no generator is given.
        restart: number of the (first) restart, which enters its random numbers.
        threat: what may be changed, and how far.
    """

    restarts: int = field(default=1, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    restart: int = field(default=0, kw_only=True)
    threat: ThreatModel

    def __post_init__(self) -> None:
        checked_threat(self.threat, "attack")
        require_at_least(1, self, "restarts")
        require_at_least(0, self, "restart")

    @property
    def _mode(self) -> str:
        """Mode of the model, "eval" or "train"."""
        return "eval"

    def __call__(
        self, model: nn.Module, x: ImagesLike, y: LabelsLike, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        seed = noise.seed_from(generator, self.seed)
        with checked_inputs(model, x, y, self.threat, self._mode) as (x, y):
            return self._images(model, x, y, seed) if len(x) else x.clone()

    @abstractmethod
    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """The images of a call, of at least one image; `model` is frozen."""

    def tries(self: _Same) -> tuple[_Same, ...]:
        """One attack for each restart."""
        return tuple(replace(self, restarts=1, restart=self.restart + i) for i in range(self.restarts))

    def keys(self, x: Float[Tensor, "n ..."], seed: int) -> Int64[Tensor, " n"]:
        """Keys of the random numbers of each image in this try."""
        return noise.fold(noise.keys(x, seed), self.restart)


@dataclass(frozen=True)
class TargetedRestarts(Restarts):
    """As `Restarts`, and tries towards one likely class after another.

    Args:
        targets: if not 0, attack towards each of so many classes in turn, the most likely ones at x other
            than y (fewer where there are fewer). Any misclassification counts.
        target_rank: attack towards this one of the likely classes only, 0 for the most likely one: one of
            the tries of `targets`.
    """

    targets: int = field(default=0, kw_only=True)
    target_rank: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(0, self, "targets", "target_rank")
        if self.targets and self.target_rank is not None:
            raise ConfigError("attack.target_rank: is one of several targets; use it with targets=0")

    @property
    def aims(self) -> bool:
        """Whether tries go towards a class each."""
        return self.targets > 0 or self.target_rank is not None

    def tries(self: _SameTargeted) -> tuple[_SameTargeted, ...]:
        """One attack for each restart towards each class."""
        ranks = range(self.targets) if self.targets else (self.target_rank,)
        towards = (replace(self, targets=0, target_rank=rank) for rank in ranks)
        return tuple(each for attack in towards for each in Restarts.tries(attack))

    def keys(self, x: Float[Tensor, "n ..."], seed: int) -> Int64[Tensor, " n"]:
        """Keys of the random numbers of each image in this try."""
        return noise.fold(super().keys(x, seed), self.target_rank or 0)


def require_at_least(least: int, attack: object, *names: str) -> None:
    """Raise `ConfigError` where one of these settings of an attack is smaller; None passes."""
    values = {name: getattr(attack, name) for name in names}
    if any(value is not None and value < least for value in values.values()):
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ConfigError(f"attack: found {shown}; expected >= {least}")
