"""Training runs as files keep them: `run.json` and `metrics.jsonl`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustlens.results.values import Number


@dataclass(frozen=True)
class ErrorRecord:
    """Reason for which a run failed."""

    type: str
    message: str
    exit_code: int = 1

    @classmethod
    def of(cls, error: BaseException) -> "ErrorRecord":
        """The record of an error that was raised: its first line, and 1 where it names no exit code."""
        message = (str(error).splitlines() or [""])[0]
        return cls(type(error).__name__, message[:500], getattr(error, "exit_code", 1))


@dataclass(frozen=True)
class PseudoLabelRecord:
    """Pseudo-labelled images of a run: how many, and the share whose label is right."""

    images: int
    right: Number


@dataclass(frozen=True)
class RunRecord:
    """State of a run.

    Attributes:
        status: "new" before the first epoch; "done" once it is evaluated and explained as well.
        error: why it failed. recipe_hash: of the recipe that the folder belongs to.
        data: fingerprint of its images. model: what builds its network. environment: versions and device.
        epochs_done, best_epoch: counted from 1. train_seconds: over all sittings.
        data_dir: folder of the data files that training was given, for what is done with the run later.
    """

    status: Literal["new", "training", "trained", "done", "failed"] = "new"
    error: ErrorRecord | None = None
    recipe_hash: str = ""
    data: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    epochs_done: int = 0
    best_epoch: int = 0
    train_seconds: Number = 0.0
    data_dir: str | None = None
    pseudo_labels: PseudoLabelRecord | None = None

    @property
    def is_trained(self) -> bool:
        """Whether its training has come to its end."""
        return self.status in ("trained", "done")


@dataclass(frozen=True)
class MonitorRecord:
    """Accuracies and mean losses on a fixed subset after an epoch; `measured` says where."""

    n: int
    clean: Number
    robust: Number
    loss: Number
    ramp_risk: Number = float("nan")
    measured: str = ""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: counted from 1. lr: learning rate at its end.
        seconds: that it took. cpu_seconds: of all processor cores, where training is on them; other work
            on the machine does not add to these.
        loss: mean training loss; loss_measured: at which weights. perturbed: whether the weights were.
        train, validation: what was measured after it. best: whether its weights are the best so far.
    """

    epoch: int
    lr: Number = float("nan")
    seconds: Number = float("nan")
    loss: Number = float("nan")
    loss_measured: str = ""
    perturbed: bool = False
    train: MonitorRecord | None = None
    validation: MonitorRecord | None = None
    best: bool = False
    cpu_seconds: Number = float("nan")

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of this epoch by name, as listeners and trackers get them.

        `loss` (while training), `lr`, `seconds` and `cpu_seconds`; `train/...` and `validation/...`: `clean`
        and `robust` accuracy in [0, 1], `loss` in nats, `ramp_risk`. What was not measured is left out.
        """
        own = {name: getattr(self, name) for name in ("loss", "lr", "seconds", "cpu_seconds")}
        for name, record in (("train", self.train), ("validation", self.validation)):
            for kind in ("clean", "robust", "loss", "ramp_risk") if record is not None else ():
                own[f"{name}/{kind}"] = getattr(record, kind)
        return {name: float(value) for name, value in own.items() if math.isfinite(value)}
