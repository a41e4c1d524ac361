"""State of an evaluation, image by image, kept on disk after every batch.

Three numbers an image say everything: the try that broke it, how many tries it has been through, and the
distance of the nearest misclassified point. A stopped evaluation reads them back, forms the same batches
again and goes on with the first batch that is not done. It has no images: writing it costs next to nothing.

Each of several processes has a file of its own in the same folder. Whoever opens the state reads all of them,
so an evaluation goes on in another number of processes, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustlens.errors import StateError
from robustlens.evaluation.shards import Shard
from robustlens.results import array_files, files

ROBUST, WRONG, UNKNOWN = -1, -2, -3
"""In place of a try's number: no try has broken the image; the model is wrong without an attack; the image is
of another shard, which has written nothing yet."""

_WHOLE = Shard()
_TENSORS = ("broken_by", "tried", "distance", "seconds")
_KEY_1, _NAMES_1 = "robustlens-evaluation", {"fell": "broken_by"}  # of format 1


@dataclass(eq=False)
class EvaluationState:
    """State of an evaluation of n images by some tries.

    Attributes:
        broken_by: (n,) number of the try that broke the image, or `ROBUST`, `WRONG` or `UNKNOWN`.
        tried: (n,) number of tries that the image has been through.
        distance: (n,) distance of the nearest misclassified point: 0 where the model is wrong at x, infinite
            where no try reached one.
        seconds: (tries,) time spent, over all sittings and shards.
        bound_to: hashes of everything that the numbers depend on.
        folder: where the files lie, or None to keep nothing.
        shard: whose file is written.
    """

    broken_by: Int64[Tensor, " n"]
    tried: Int64[Tensor, " n"]
    distance: Float[Tensor, " n"]
    seconds: Float[Tensor, " tries"]
    bound_to: Mapping[str, str]
    folder: Path | None = None
    shard: Shard = _WHOLE

    def __post_init__(self) -> None:
        self._own_seconds = torch.zeros_like(self.seconds)

    @classmethod
    def open(
        cls,
        folder: Path | None,
        bound_to: Mapping[str, str],
        clean: Bool[Tensor, " n"],
        tries: int,
        shard: Shard = _WHOLE,
        rows: Int64[Tensor, " rows"] | None = None,
    ) -> "EvaluationState":
        """The state in `folder`, all shards together, or a new one where there is none.

        `clean` says which images are right without an attack; it counts at `rows`, those of the shard, or
        everywhere where that is None.

        Raises:
            StateError: the state belongs to another model, data, threat or suite, or is damaged.
        """
        state = cls(
            broken_by=torch.where(clean, ROBUST, WRONG),
            tried=torch.zeros(len(clean), dtype=torch.int64),
            distance=torch.where(clean, torch.inf, 0.0).double(),
            seconds=torch.zeros(tries, dtype=torch.float64),
            bound_to=dict(bound_to),
            folder=folder,
            shard=shard,
        )
        if rows is not None:
            others = torch.ones(len(clean), dtype=torch.bool).index_fill(0, rows, False)
            state.broken_by[others] = UNKNOWN
        for path in sorted(folder.glob("progress*.safetensors")) if folder is not None else ():
            state._merge(path)
        return state

    @property
    def _file(self) -> str:
        number, of = self.shard.number + 1, self.shard.of
        return "progress.safetensors" if of == 1 else f"progress-{number}-of-{of}.safetensors"

    def rows(self, number: int, *, include_broken: bool = False) -> Int64[Tensor, " rows"]:
        """Images that were robust when try `number` began; with `include_broken` all that are right at x.

        They do not change while the try runs or after it, so a resumed try has the same batches.
        """
        if include_broken:
            return torch.nonzero(self.broken_by != WRONG).squeeze(1)
        return torch.nonzero((self.broken_by == ROBUST) | (self.broken_by >= number)).squeeze(1)

    def untried(self, number: int, rows: Int64[Tensor, " rows"]) -> Int64[Tensor, " untried"]:
        """Those of `rows` that try `number` was not run on yet."""
        return rows[self.tried[rows] <= number]

    def record(
        self,
        number: int,
        rows: Int64[Tensor, " rows"],
        broken: Bool[Tensor, " rows"],
        distance: Float[Tensor, " rows"],
        seconds: float,
    ) -> None:
        """Enter the outcome of try `number` on `rows`, and put it on disk.

        `distance` is infinite where no misclassified point was reached.
        """
        newly = rows[broken & (self.broken_by[rows] == ROBUST)]
        self.broken_by[newly] = number
        self.tried[rows] = number + 1
        self.distance[rows] = self.distance[rows].minimum(distance.to(self.distance))
        self.seconds[number] += seconds
        self._own_seconds[number] += seconds
        if self.folder is not None:
            tensors = {name: getattr(self, name) for name in _TENSORS} | {"seconds": self._own_seconds}
            content = save_tensors(tensors)
            files.write_atomic(
                self.folder / self._file, array_files.sealed_tensors(content, {"bound_to": self.bound_to})
            )

    def robust_after(self, number: int) -> Bool[Tensor, " n"]:
        """Mask of the images that are right, and still right after try `number` and all before it."""
        return (self.broken_by == ROBUST) | (self.broken_by > number)

    def _merge(self, path: Path) -> None:
        """Take in a shard's file: of each image what the shard knows, unless another one has come further.

        Which of two files is read first does not matter: what is the same try is the same outcome.
        """
        tensors = self._read(path)
        further = (tensors["broken_by"] != UNKNOWN) & (tensors["tried"] >= self.tried)
        for name in ("broken_by", "tried", "distance"):
            setattr(self, name, torch.where(further, tensors[name], getattr(self, name)))
        self.seconds += tensors["seconds"]
        if path.name == self._file:
            self._own_seconds = tensors["seconds"]

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            bound_to, tensors = _saved(path)
        except StateError as error:
            raise StateError(f"{error}; or delete {path.parent} to start again") from error
        other = [name for name, value in self.bound_to.items() if bound_to.get(name) != value]
        if other:
            raise StateError(
                f"{path}: an evaluation stopped here belongs to another {' and another '.join(other)}; "
                f"choose another --out, repeat the old command, or delete {path.parent} to start again"
            )
        for name in _TENSORS:
            if name not in tensors or tensors[name].shape != getattr(self, name).shape:
                raise StateError(f"{path}: damaged; delete {path.parent} to start again")
        return tensors


def _saved(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """Hashes that a saved state is bound to, and its tensors by their present names."""
    header, saved = array_files.read_tensors(path)
    tensors = {_NAMES_1.get(name, name): tensor for name, tensor in saved.items()}
    try:
        if header.seal is not None:
            return header.values["bound_to"], tensors
        return json.loads(array_files.metadata_of(path)[_KEY_1]), tensors
    except (TypeError, KeyError, ValueError) as error:
        raise StateError(f"{path}: damaged, it does not say which evaluation it belongs to") from error
