"""Adversarial images of an evaluation, kept without loss and checked again before a number is printed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Bool, Float, Int64
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustlens.errors import StateError
from robustlens.models.inputs import Readable
from robustlens.results import array_files, files


@dataclass(eq=False)
class AdversarialImages:
    """Images that broke the model, by row; in `folder` one sealed file for each batch, or in memory."""

    folder: Path | None = None
    _images: dict[int, Tensor] = field(default_factory=dict)

    def add(self, number: int, rows: Int64[Tensor, " rows"], x_adv: Float[Tensor, "rows ..."]) -> None:
        """Keep the images of try `number`. A file that a killed process wrote is replaced by its equal."""
        if len(rows) == 0:
            return
        if self.folder is None:
            self._images.update(zip(rows.tolist(), x_adv.cpu(), strict=True))
            return
        content = save_tensors({"rows": rows, "x_adv": x_adv.detach().cpu().contiguous()})
        path = self.folder / f"adversarial-{number:03d}-{int(rows[0]):08d}.safetensors"
        files.write_atomic(path, array_files.sealed_tensors(content, {}))

    def assemble(self, x: Readable, broken: Bool[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """`x`, with the adversarial image in place of each broken one.

        Raises:
            StateError: a file is damaged.
        """
        x_adv = x.clone() if isinstance(x, Tensor) else x[:]
        for row, image in self._images.items():
            x_adv[row] = image
        for saved in self._saved():
            used = broken[saved["rows"]]
            x_adv[saved["rows"][used]] = saved["x_adv"][used].to(x_adv)
        return x_adv

    def require(self, broken: Bool[Tensor, " n"]) -> None:
        """Refuse to go on where an image is known as broken and was not kept: it is not attacked again.

        Raises:
            StateError: there is one, or a file is damaged.
        """
        missing = broken.clone()
        for saved in self._saved() if bool(broken.any()) else ():
            missing[saved["rows"]] = False
        if bool(missing.any()):
            raise StateError(
                f"save_adversarial: found the progress of {int(missing.sum())} broken images without the "
                f"images in {self.folder}, expected all; leave it out, or delete the folder to start again"
            )

    def _saved(self) -> Iterator[dict[str, Tensor]]:
        """Rows and images of each file, in order."""
        for path in sorted(self.folder.glob("adversarial-*.safetensors")) if self.folder else ():
            try:
                _, saved = array_files.read_tensors(path)
            except StateError as error:
                raise StateError(f"{path}: damaged; delete {self.folder} to start again") from error
            if not {"rows", "x_adv"} <= saved.keys():
                raise StateError(f"{path}: holds no adversarial images; delete {self.folder} to start again")
            yield saved
