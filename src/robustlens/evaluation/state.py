"""What an evaluation knows of each image so far, kept on disk after every batch.

Three numbers an image say everything: which try broke it, how many tries it has been through, and how near
the nearest misclassified point was. A stopped evaluation reads them back, forms the same batches again and
goes on with the first batch that is not done. The ledger holds no images: writing it costs next to nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustlens.errors import StateError
from robustlens.results.folders import write_atomic

STANDING, WRONG = -1, -2
"""In place of a try's number: no try has broken the image; the model is wrong without an attack."""

_FILE, _KEY = "progress.safetensors", "robustlens-evaluation"


@dataclass(eq=False)
class EvaluationState:
    """The state of an evaluation of n images by some tries.

    Attributes:
        broken_by: (n,) number of the try that broke the image, or `STANDING`, or `WRONG`.
        tried: (n,) number of tries that the image has been through.
        distance: (n,) distance of the nearest misclassified point found: 0 where the model is wrong at x,
            infinite where none was found.
        seconds: (tries,) time spent, over all sittings.
        bound_to: hashes of everything that the numbers depend on.
        folder: where the file lies, or None to keep nothing.
    """

    broken_by: Int64[Tensor, " n"]
    tried: Int64[Tensor, " n"]
    distance: Float[Tensor, " n"]
    seconds: Float[Tensor, " tries"]
    bound_to: Mapping[str, str]
    folder: Path | None = None

    @classmethod
    def open(
        cls, folder: Path | None, bound_to: Mapping[str, str], clean: Bool[Tensor, " n"], tries: int
    ) -> "EvaluationState":
        """The ledger in `folder`, or a new one where there is none.

        Raises:
            StateError: the ledger belongs to another model, data, threat or suite, or is damaged.
        """
        ledger = cls(
            broken_by=torch.where(clean, STANDING, WRONG),
            tried=torch.zeros(len(clean), dtype=torch.int64),
            distance=torch.where(clean, torch.inf, 0.0).double(),
            seconds=torch.zeros(tries, dtype=torch.float64),
            bound_to=dict(bound_to),
            folder=folder,
        )
        if folder is not None and (folder / _FILE).exists():
            ledger._read(folder / _FILE)
        return ledger

    def rows(self, number: int, *, everyone: bool = False) -> Int64[Tensor, " rows"]:
        """The images that stood when try `number` began (`everyone`: all that the model is right on at x).

        It does not change while the try runs, so a resumed try has the same batches.
        """
        if everyone:
            return torch.nonzero(self.broken_by != WRONG).squeeze(1)
        return torch.nonzero((self.broken_by == STANDING) | (self.broken_by >= number)).squeeze(1)

    def waiting(self, number: int, rows: Int64[Tensor, " rows"]) -> Int64[Tensor, " waiting"]:
        """Those of `rows` that try `number` has not had yet."""
        return rows[self.tried[rows] <= number]

    def record(
        self,
        number: int,
        rows: Int64[Tensor, " rows"],
        broken: Bool[Tensor, " rows"],
        distance: Float[Tensor, " rows"],
        seconds: float,
    ) -> None:
        """Enter what try `number` did to `rows`, and put it on disk.

        `distance` is infinite where no misclassified point was found.
        """
        newly = rows[broken & (self.broken_by[rows] == STANDING)]
        self.broken_by[newly] = number
        self.tried[rows] = number + 1
        self.distance[rows] = self.distance[rows].minimum(distance.to(self.distance))
        self.seconds[number] += seconds
        if self.folder is not None:
            self._write(self.folder / _FILE)

    def robust_after(self, number: int) -> Bool[Tensor, " n"]:
        """Which images are right, and still right after try `number` and all before it."""
        return (self.broken_by == STANDING) | (self.broken_by > number)

    def _write(self, path: Path) -> None:
        tensors = {name: getattr(self, name) for name in ("fell", "tried", "distance", "seconds")}
        write_atomic(path, save_tensors(tensors, metadata={_KEY: json.dumps(self.bound_to)}))

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                bound_to = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise StateError(f"{path}: damaged; delete {path.parent} to start again") from error
        other = [name for name, value in self.bound_to.items() if bound_to.get(name) != value]
        if other:
            raise StateError(
                f"{path}: an evaluation stopped here belongs to another {' and another '.join(other)}; "
                f"choose another --out, repeat the old command, or delete {path.parent} to start again"
            )
        for name, tensor in tensors.items():
            if tensor.shape != getattr(self, name).shape:
                raise StateError(f"{path}: damaged; delete {path.parent} to start again")
            setattr(self, name, tensor)
