"""Plans for the checkpoints of a run: how they are attacked, and what is measured of them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from robustlens.config.checkpoint import BEST, LAST, SELECTIONS, Checkpoint, selection
from robustlens.config.recipe import ThreatSpec
from robustlens.config.values import Number, Values, as_files_keep
from robustlens.factories import is_factory

SomePlan = TypeVar("SomePlan", bound="Plan")


class Plan(Values):
    """Base of the plans for the checkpoints of a run.

    `checkpoint` is "best", "last" or one that `keep_every` kept, "epoch-0010"; "both" means the best, and
    the last beside it; "every" the kept ones as well.
    """

    checkpoint: Annotated[str, BeforeValidator(selection)] = "best"

    def checkpoints(self, kept: Sequence[Checkpoint] = ()) -> list[Checkpoint]:
        """The checkpoints that this plan asks for, of a run that kept these; the primary one first.

        >>> [str(one) for one in Plan(checkpoint="every").checkpoints([Checkpoint("epoch", 10)])]
        ['best', 'last', 'epoch-0010']
        """
        if self.checkpoint not in SELECTIONS:
            return [Checkpoint.parse(self.checkpoint)]
        return [BEST, LAST, *(kept if self.checkpoint == "every" else ())]

    def at(self: SomePlan, checkpoint: Checkpoint) -> SomePlan:
        """The same plan for one checkpoint."""
        return self.model_copy(update={"checkpoint": str(checkpoint)})


class EvaluationPlan(Plan):
    """Attacks on a trained network: the same on training and test images."""

    threat: ThreatSpec = ThreatSpec()
    attacks: tuple[str, ...] = ("fgsm", "pgd-20", "cw-20")
    restarts: int = Field(default=1, ge=1)
    test_examples: int | None = Field(default=None, gt=0)
    train_examples: int | None = Field(default=None, gt=0)
    curve: tuple[Annotated[Number, Field(ge=0)], ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    """Radii of the robust-accuracy curve as multiples of eps; 0 is always there."""
    curve_search: Literal["adaptive", "plain"] = "adaptive"
    """Search behind the curve. Without a curve, and in L2 and L1, it becomes "plain"."""
    batch_size: int = Field(default=256, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Precision of the attacks' search; verdicts are of float32 and float64."""
    compile: bool = False
    """Let torch compile the network that attacks search on: pays on a GPU, costs a minute at the start."""
    adaptive: bool = False
    """Attack through a copy in which layers with a useless gradient have another one in the backward pass."""
    save_adversarial: bool = False
    certify: Literal["ibp", "crown-ibp", "crown"] | None = None
    """Method that proves images robust, beside the attacks; null proves nothing."""
    seed: int = 0

    @model_validator(mode="after")
    def _search_that_is_made(self) -> "EvaluationPlan":
        """Name the search that is made, so that plans which make the same one are equal."""
        if not self.curve or self.threat.norm != "Linf":
            self.__dict__["curve_search"] = "plain"
        return self


class ExplanationPlan(Plan):
    """Measures of a trained network, their threat, and the number of images."""

    threat: ThreatSpec = ThreatSpec()
    measures: tuple[str, ...] = ("spectrum", "activations", "margins", "smoothness", "gallery", "landscape")
    examples: int = Field(default=1000, ge=1)
    options: dict[str, dict[str, Any]] = {}
    """Options by measure, e.g. `landscape: {draws: 2, examples: 256}`."""
    batch_size: int = Field(default=256, ge=1)
    seed: int = 0

    @field_validator("measures")
    @classmethod
    def _measured_once(cls, measures: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a measure that is named twice."""
        twice = next((name for name in measures if measures.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f": found {twice!r} twice, expected each measure once")
        return measures

    @field_validator("options")
    @classmethod
    def _own_as_files_keep(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Check what a measure of the user's may not: its parameters need no types."""
        return options | as_files_keep({name: given for name, given in options.items() if is_factory(name)})
