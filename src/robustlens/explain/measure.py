"""What a measure is: a function of a subject that returns a measurement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustlens.data import Split
from robustlens.models import device_of
from robustlens.progress import Listener, silent
from robustlens.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the images on which it is explained; every measure gets the same ones.

    Attributes:
        model: in eval mode. train, test: fixed subsets. threat: as in the evaluation.
        seed: base of every random choice. batch_size: changes speed, not results.
        training_examples: how many images the network was trained on; None: those of `train`.
    """

    model: nn.Module
    train: Split
    test: Split
    threat: ThreatModel
    seed: int = 0
    batch_size: int = 256
    listen: Listener = silent
    training_examples: int | None = None

    def images(self, split: str, examples: int | None = None) -> tuple[Tensor, Tensor]:
        """The first `examples` images and labels of "train" or "test", on the model's device."""
        part: Split = getattr(self, split)
        device = device_of(self.model)
        x, y = part.x(), part.labels
        return x[:examples].to(device), y[:examples].to(device)


@dataclass(frozen=True, eq=False)
class Measurement:
    """One thing we know about a network.

    Attributes:
        value: numbers by name, nested if need be. unit: of these numbers.
        what: one sentence. source: paper and figure or equation, and where we differ.
        arrays: the raw values behind the numbers, for plots and for the claims.
    """

    value: Mapping[str, Any]
    unit: str
    what: str
    source: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


Measure = Callable[..., Measurement]
"""`(subject, **options) -> Measurement`; the options are those a study may set."""
