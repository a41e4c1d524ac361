"""Measures and their subject: a measure is a function of a subject that returns a measurement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from robustlens.config import Count, Number
from robustlens.data import Split, readable
from robustlens.models import device_of
from robustlens.models.inputs import Readable
from robustlens.progress import Listener, silent
from robustlens.results import Measurement
from robustlens.threat import ThreatModel

__all__ = ["Count", "Measure", "Measurement", "Positive", "Radius", "SplitName", "SplitNames", "Subject"]

Measure = Callable[..., Measurement]
"""`(subject, **options) -> Measurement`; the options, typed by their annotations, are a study's to set."""

Radius = Annotated[Number, Field(ge=0)]
"""Option that is a size."""
Positive = Annotated[Number, Field(gt=0)]
"""Option that is a size, and not 0."""
SplitName = Literal["train", "test"]
"""Option that names the images measured."""
SplitNames = Annotated[Sequence[SplitName], Field(min_length=1)]
"""Option that names several: numbers are of the first, arrays of all."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images on which it is explained; every measure gets the same ones.

    Attributes:
        model: in eval mode. train, test: fixed subsets. threat: of every attack.
        seed: base of every random choice. batch_size: changes speed, not results.
        progress: hears how far a measure is.
        training_examples: how many images the network was trained on; None: those of `train`.
        classes: their names, in the order of the labels; those beyond have numbers.
    """

    model: nn.Module
    train: Split
    test: Split
    threat: ThreatModel
    seed: int = 0
    batch_size: int = 256
    progress: Listener = silent
    training_examples: int | None = None
    classes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Batch size and seed, as the functions behind measures take them."""
        return {"batch_size": self.batch_size, "seed": self.seed}

    def split(self, name: SplitName) -> Split:
        """The images of "train" or "test"."""
        return self.train if name == "train" else self.test

    def images(self, split: SplitName, examples: int | None = None) -> tuple[Tensor, Tensor]:
        """The first `examples` images and labels of a split, on the model's device."""
        part, device, rows = self.split(split), device_of(self.model), slice(examples)
        return part.x(rows).to(device), part.labels[rows].to(device)

    def readable(self, split: SplitName) -> tuple[Readable, Tensor]:
        """All images of a split on the CPU, or a reader of them, and their labels."""
        part = self.split(split)
        return readable(part), part.labels

    def index(self, split: SplitName, examples: int | None = None) -> np.ndarray:
        """Positions of these images in their source."""
        return self.split(split).index[:examples].numpy()

    def arrays(
        self, split: SplitName, examples: int | None, values: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Values of these images by the names that a measurement gives them, and the images' positions."""
        named = {f"{split}_{name}": array for name, array in values.items()}
        return {**named, f"{split}_index": self.index(split, examples)}
