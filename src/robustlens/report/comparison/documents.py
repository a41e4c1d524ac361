"""What a comparison of two runs holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from robustlens.stats.intervals import Inference, Interval
from robustlens.stats.paired import PairedCounts


@dataclass(frozen=True)
class Side:
    """One of the two: its name, and hash of its recipe and its checkpoint; None for a model without them."""

    name: str
    recipe: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class FieldDifference:
    """One field of a recipe or a plan, as text; None where that side does not have it."""

    field: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class QuantityChange:
    """One number of both.

    Attributes:
        quantity: its name. unit: "share", "nats", or that of the measure.
        a, b: the numbers, with intervals where each has one of its own.
        difference: b minus a; paired where both saw the same images. Its ends and p are None where nothing is
            known of its error.
        counts: images that both, one or neither has right; None for what is no rate of right images, or where
            the images differ.
    """

    quantity: str
    unit: str
    a: Interval
    b: Interval
    difference: Inference
    counts: PairedCounts | None = None


@dataclass(frozen=True)
class ImageComparison:
    """The numbers on one set of images.

    Attributes:
        images: "test" or "training".
        n_a, n_b: images that each was evaluated on. shared: those in both, which paired numbers are of.
        paired: whether the differences are image by image. why: reason for which they are not.
        changes: the numbers.
    """

    images: str
    n_a: int
    n_b: int
    shared: int
    paired: bool
    why: str
    changes: tuple[QuantityChange, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison of run a with run b says.

    Attributes:
        a, b: the two.
        recipe, evaluation: fields in which recipes and evaluation plans differ.
        accuracy: by set of images. gaps: changes of the gaps between training and test images.
        measures: key numbers of the measures that both have, taken under equal conditions, by measure.
        notes: what a reader must know before believing a difference.
    """

    a: Side
    b: Side
    recipe: tuple[FieldDifference, ...] = ()
    evaluation: tuple[FieldDifference, ...] = ()
    accuracy: tuple[ImageComparison, ...] = ()
    gaps: tuple[QuantityChange, ...] = ()
    measures: Mapping[str, tuple[QuantityChange, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
