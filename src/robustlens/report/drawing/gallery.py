"""Galleries before any library draws them: the same inputs for several networks, side by side.

A drawing is a picture, or for signals the curves of its channels.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_LARGEST = 64
"""Longest side of a picture; a larger one is reduced, so that ten of them for six networks stay a page."""
_EXACT = 48
"""Longest side of a picture that keeps its exact pixels, as PNG."""
_BOX = (100.0, 60.0)
"""Width and height of the box that curves are drawn in."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image. `pixels`: 0..255, (h, w), or (h, w, 3) with colours. `text`: for those who do not see it."""

    pixels: UInt8[np.ndarray, "h w *c"]
    text: str

    def uri(self) -> str:
        """The picture as a data URI: PNG, or JPEG where it is large."""
        image, buffer = Image.fromarray(self.pixels), io.BytesIO()
        kind = "png" if max(image.size) <= _EXACT else "jpeg"
        options = {"optimize": True} if kind == "png" else {"quality": 85, "subsampling": 0}
        image.save(buffer, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Curves:
    """A signal.

    `lines`: one of each channel, in [0, 1]. `behind`: faint ones to compare with. `text`: as of a picture.
    """

    lines: tuple[tuple[float, ...], ...]
    text: str
    behind: tuple[tuple[float, ...], ...] = ()

    @property
    def box(self) -> str:
        """The viewBox of `paths`."""
        return f"0 0 {_BOX[0]:g} {_BOX[1]:g}"

    def paths(self, lines: Sequence[Sequence[float]]) -> list[str]:
        """Lines as paths of SVG, within the box."""
        width, height = _BOX
        return [
            "M"
            + "L".join(
                f"{width * place / max(len(line) - 1, 1):.1f} {height * (1 - value):.1f}"
                for place, value in enumerate(line)
            )
            for line in lines
        ]


Drawing = Picture | Curves


@dataclass(frozen=True)
class Answer:
    """Class that a network predicts, with its probability."""

    name: str
    confidence: float
    is_right: bool


@dataclass(frozen=True)
class GalleryCell:
    """One input as one network has it: answers without and under attack, and a drawing of each kind."""

    label: str
    clean: Answer
    attacked: Answer
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class GalleryRow:
    """One input. `index`: its position in its source. `name`: of its class."""

    index: int
    name: str
    drawing: Drawing
    cells: tuple[GalleryCell, ...]


@dataclass(frozen=True)
class Gallery:
    """Inputs as rows, networks as columns. `kinds`: of drawings in a cell. `noun`: "image" or "signal"."""

    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[GalleryRow, ...]
    noun: str = "image"
    label: str = ""
    mark: str = "gallery"

    def points(self) -> Iterator[dict[str, float | str | None]]:
        """The answers as tidy data: x is the input's `index`, y the confidence under attack."""
        for row in self.rows:
            for cell in row.cells:
                yield {
                    "label": cell.label,
                    "x": row.index,
                    "y": cell.attacked.confidence,
                    "class": row.name,
                    "prediction": cell.clean.name,
                    "confidence": cell.clean.confidence,
                    "adversarial_prediction": cell.attacked.name,
                }


def reduced(image: np.ndarray, *, signed: bool) -> np.ndarray:
    """An image (h, w, ...) whose longer side is at most 64: means of squares, or of signed values every k-th.

    The mean of a perturbation would be nothing, as its signs alternate.
    """
    k = -(-max(image.shape[:2]) // _LARGEST)
    if k == 1:
        return image
    if signed:
        return image[k // 2 :: k, k // 2 :: k]
    height, width = (side // k for side in image.shape[:2])
    squares = image[: height * k, : width * k].reshape(height, k, width, k, *image.shape[2:])
    means: np.ndarray = squares.mean((1, 3))
    return means
