"""Certified images of an evaluation: margins bounded batch by batch, kept on disk as attacks' progress is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustlens.certification import METHODS, BoundedNetwork
from robustlens.errors import ConfigError, NumericsError, StateError
from robustlens.evaluation.attack_loop import AttackLoop
from robustlens.evaluation.state import ROBUST, WRONG
from robustlens.evaluation.verifier import CLOSE, tolerance
from robustlens.progress import Event
from robustlens.results import array_files, files

_IMAGES = 16
"""Images bounded at once."""


def check_method(method: str, where: str) -> None:
    """Raise `ConfigError` for what does not bound the margins of the network itself."""
    if method not in METHODS:
        why = "; it certifies the smoothed classifier, not the network" if method == "smoothing" else ""
        raise ConfigError(f"{where}: found {method!r}, expected one of {', '.join(METHODS)}{why}")


@dataclass(eq=False)
class Certificates:
    """Lower bounds of the margins of the images that an attack loop attacks.

    The radius is that of the evaluation and the tolerance that its attacks have beside it, so that an image
    which is certified cannot be broken.

    Args:
        loop: of the attacks. network: its model, bounded.
        folder: where progress is kept, or None.

    Attributes:
        lower: (n,) lower bound of the smallest margin; NaN where the model is wrong or that is not known yet.
        rounding: (n,) what a margin has to exceed: 0, unless verdicts are of float32 alone.
    """

    loop: AttackLoop
    network: BoundedNetwork
    folder: Path | None

    def __post_init__(self) -> None:
        n = len(self.loop.y)
        self.lower = torch.full((n,), torch.nan, dtype=torch.float64)
        self.rounding = torch.zeros(n, dtype=torch.float64)
        self._read()

    @classmethod
    def of(cls, loop: AttackLoop, method: str, folder: Path | None) -> "Certificates":
        """The certificates of a loop, before it has run.

        Raises:
            ModelError: the network has an operation without a rule.
            StateError: the progress in `folder` is damaged or belongs to something else.
        """
        shape = tuple(loop.x.shape[1:])
        return cls(loop, BoundedNetwork.of(loop.verifier.model, shape, loop.threat, method), folder)

    @property
    def certified(self) -> Bool[Tensor, " n"]:
        """Mask of the images that are right, and proven to stay so within the threat."""
        return self.lower > self.rounding

    def run(self) -> None:
        """Bound the margins of every image that the model gets right, but for those done before a stop."""
        right = torch.nonzero(self.loop.state.broken_by != WRONG).squeeze(1)
        rows = right[self.lower[right].isnan()]
        done, model = len(right) - len(rows), self.loop.verifier.model
        radius = self.loop.threat.eps + tolerance(self.loop.threat)
        for batch in rows.split(_IMAGES):
            if len(batch) == 0:
                break
            x, y = self.loop.batch(batch)
            logits = self.network.checked_logits(model, x)
            if getattr(self.loop.verifier, "exact", None) is None:
                self.rounding[batch] = CLOSE * logits.double().abs().amax(1)
            eps = torch.full((len(batch),), radius, dtype=torch.float64)
            self.lower[batch] = self.network.margins(x, y, eps).amin(1)
            self._write()
            done += len(batch)
            certified = int(self.certified.sum())
            text = f"{certified} of {len(self.lower)} certified"
            self.loop.listen(Event(f"certify {self.network.method}", done, len(right), text))

    def check(self) -> None:
        """Raise `NumericsError` where an image is both certified and broken: one of the two is a bug."""
        broken_by = self.loop.state.broken_by
        both = torch.nonzero(self.certified & (broken_by != ROBUST)).squeeze(1).tolist()
        if both:
            attack = self.loop.tries[int(broken_by[both[0]])].name
            raise NumericsError(
                f"evaluate: {len(both)} images are certified by {self.network.method!r} and broken by an "
                f"attack, image {both[0]} by {attack!r}, expected none; one of the two is wrong, which is a "
                "bug of robustlens or a model that changes its answers: please report it"
            )

    # -- progress ----------------------------------------------------------------------------------

    @property
    def _path(self) -> Path | None:
        return None if self.folder is None else self.folder / "certified.safetensors"

    @property
    def _bound_to(self) -> Mapping[str, str]:
        """What the bounds depend on: as the attacks, but for the suite and the precision of its search."""
        names = ("model", "selection of images", "threat", "version of robustlens")
        return {name: self.loop.state.bound_to[name] for name in names} | {"method": self.network.method}

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        header, tensors = array_files.read_tensors(self._path)
        bound_to = header.values.get("bound_to", {})
        other = [name for name, value in self._bound_to.items() if bound_to.get(name) != value]
        if other:
            raise StateError(
                f"{self._path}: certificates kept here belong to another {' and another '.join(other)}; "
                f"choose another --out, repeat the old command, or delete {self.folder} to start again"
            )
        for name in ("lower", "rounding"):
            if name not in tensors or tensors[name].shape != self.lower.shape:
                raise StateError(f"{self._path}: damaged; delete {self.folder} to start again")
        self.lower, self.rounding = tensors["lower"], tensors["rounding"]

    def _write(self) -> None:
        if self._path is not None:
            content = save_tensors({"lower": self.lower, "rounding": self.rounding})
            files.write_atomic(self._path, array_files.sealed_tensors(content, {"bound_to": self._bound_to}))
