"""The adversarial images of an evaluation, kept without loss and checked again before a number is printed."""

from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustlens.results.folders import write_atomic


@dataclass(eq=False)
class AdversarialImages:
    """Images that broke the model, by row; in `folder` one file for each batch, or in memory."""

    folder: Path | None = None
    _held: dict[int, Tensor] = field(default_factory=dict)

    def add(self, number: int, rows: Int64[Tensor, " rows"], x_adv: Float[Tensor, "rows ..."]) -> None:
        """Keep what try `number` found. A file that a killed process left is replaced by its equal."""
        if len(rows) == 0:
            return
        if self.folder is None:
            self._held.update(zip(rows.tolist(), x_adv.cpu(), strict=True))
            return
        content = save_tensors({"rows": rows, "x_adv": x_adv.detach().cpu().contiguous()})
        write_atomic(self.folder / f"adversarial-{number:03d}-{int(rows[0]):08d}.safetensors", content)

    def assemble(self, x: Float[Tensor, "n ..."], fallen: Bool[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """`x`, with the adversarial image in place of each fallen one."""
        x_adv = x.clone()
        for row, image in self._held.items():
            x_adv[row] = image
        for file in sorted(self.folder.glob("adversarial-*.safetensors")) if self.folder else ():
            found = load_file(file)
            rows = fallen[found["rows"]]
            x_adv[found["rows"][rows]] = found["x_adv"][rows].to(x.dtype)
        return x_adv
