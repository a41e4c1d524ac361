"""State of an unfinished training, in one sealed file, from which a later call goes on bit for bit.

The state before it is kept: where the newest is damaged, training goes on from that one, to the same bits.
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustlens import processes
from robustlens.errors import StateError
from robustlens.models.tensors import copies
from robustlens.results import array_files
from robustlens.results.values import decode, plain
from robustlens.training import optimizer_state
from robustlens.training.schedules import Schedule
from robustlens.weights import ExponentialMovingAverage

FILE, PREVIOUS = "state.safetensors", "state.previous.safetensors"
"""Names of the state after an epoch, and of the one before it."""
STEP = "state.step.safetensors"
"""Name of the state inside an epoch: where a signal stopped training, or as of some minutes ago."""
_log = logging.getLogger("robustlens")


@dataclass(frozen=True)
class StateRecord:
    """Header of a state.

    Attributes:
        recipe: hash of the recipe. data: fingerprint of the images. start: fingerprint of the weights that
            training began from, where the recipe names them (`init`). A state of others is refused.
        epochs_done: finished epochs. seconds: that they took.
        step: steps done in the next epoch, where the state is one inside it. step_seconds,
            step_cpu_seconds: likewise.
        best_score: validation accuracies of the best epoch, that which is maximised first; robust, or clean
            in standard training. best_epoch: counted from 1.
        average_steps: updates of the running average of the weights.
        values: what is no tensor of the optimizer and its schedule, as JSON (which may hold Infinity).
    """

    recipe: str
    data: str = ""
    start: str | None = None
    epochs_done: int = 0
    seconds: float = 0.0
    best_score: tuple[float, float] = (-1.0, -1.0)
    best_epoch: int = 0
    average_steps: int = 0
    step: int = 0
    step_seconds: float = 0.0
    step_cpu_seconds: float = 0.0
    values: str = ""

    def check(self, other: "StateRecord", path: Path) -> None:
        """Raise `StateError` where `other`, read from `path`, belongs to another recipe, data or start."""
        problem = None
        if other.recipe != self.recipe:
            problem = f"belongs to recipe {other.recipe}"
        elif other.data != self.data:
            problem = "was trained on other images of the same name"
        elif other.start != self.start:
            problem = "began from other weights than recipe.init names now"
        if problem:
            raise StateError(f"{path}: {problem}; choose another --out")


class TrainingState:
    """Everything that training changes: the network, its optimizer, its average, and how far it has come.

    Args:
        record: what training belongs to, before the first epoch.
        model: the network.
        optimizer: of its parameters.
        schedule: of its learning rate.
        average: the running average of the weights, if any.

    Attributes:
        partial_epoch: tensors of an unfinished epoch: its loss so far, the random state of layers, and what
            a step keeps.
    """

    def __init__(
        self,
        record: StateRecord,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        average: ExponentialMovingAverage | None,
    ) -> None:
        self.record, self.model, self.optimizer, self.average = record, model, optimizer, average
        self.schedule = schedule
        self.partial_epoch: dict[str, Tensor] = {}

    def to_bytes(self) -> bytes:
        """The state as a sealed safetensors file."""
        record = self.record
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        of_optimizer, values = optimizer_state.packed(self.optimizer)
        tensors |= of_optimizer
        values = {"optimizer": values, "schedule": self.schedule.values()}
        record = replace(record, values=json.dumps(values))
        if self.average is not None:
            averages = self.average.average.state_dict()
            tensors |= {f"average.{key}": value for key, value in averages.items()}
            record = replace(record, average_steps=self.average.steps)
        tensors |= {f"inside.{key}": value for key, value in self.partial_epoch.items()}
        return array_files.sealed_tensors(save_tensors(copies(tensors)), plain(record))

    def restore(self, step: Path, newest: Path, previous: Path) -> list[Path]:
        """Take up the state that is furthest: inside an epoch, after one, or after the one before.

        The first rank reads it, and tells the others. Returns the damaged files, which were passed over.

        Raises:
            StateError: all are damaged, or they belong to another recipe, other images or another start.
        """
        damages, path, record, tensors = processes.told_by_first(
            lambda: self._furthest(step, newest, previous)
        )
        try:
            self._take(record, tensors)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:  # tensors of another network
            raise StateError(
                f"{path}: damaged, it does not fit its network; delete it to start again"
            ) from error
        return damages

    def _furthest(
        self, step: Path, newest: Path, previous: Path
    ) -> tuple[list[Path], Path, StateRecord, dict[str, Tensor]]:
        """Damaged files; and of the state that is furthest its path, its header and its tensors."""
        damages: dict[Path, StateError] = {}
        states = [state for path in (step, newest) if (state := _intact(path, damages))]
        if newest in damages or not states:  # or a kill came between two renames
            states += [state for state in [_intact(previous, damages)] if state]
        if not states:
            raise next(iter(damages.values()))
        path, record, tensors = max(states, key=lambda one: (one[1].epochs_done, one[1].step))
        for damage in damages.values():
            _log.warning("%s; training goes on from %s", damage, path.name)
        self.record.check(record, path)
        return list(damages), path, record, tensors

    def _take(self, record: StateRecord, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(under("model.", tensors))
        values = json.loads(record.values or "{}")
        optimizer_state.restore(self.optimizer, tensors, values.get("optimizer", {}))
        self.schedule.restore(values.get("schedule", {}))
        if self.average is not None:
            self.average.average.load_state_dict(under("average.", tensors))
            self.average.steps = record.average_steps
        self.record, self.partial_epoch = record, under("inside.", tensors)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _intact(
    path: Path, damages: dict[Path, StateError]
) -> tuple[Path, StateRecord, dict[str, Tensor]] | None:
    """The state in a file; None where there is none, or where it is damaged, which is noted."""
    if not path.exists():
        return None
    try:
        header, tensors = array_files.read_tensors(path)
        return path, decode(StateRecord, header.values, str(path)), tensors
    except StateError as damage:
        damages[path] = damage
        return None
