"""Training images on the device of the network, batch by batch.

On a CUDA device they stay as uint8 where they fit, and become floats there. Otherwise a thread reads the next
batch, into pinned memory for a CUDA device, while the device works on this one. Floats have the same bits
everywhere: a division rounds otherwise on a GPU, so that looks them up in a table that the CPU made.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from robustlens.data import Split
from robustlens.data.splits import as_floats

_SHARE = 0.25  # of a device's free memory that the training images may take


class TrainingImages:
    """Images of a split for training steps, whole, as the split has them before its crop.

    Args:
        images: the split.
        device: of the network.
        resident: whether the images are kept on the device; None: where they are in memory and fit there.
    """

    def __init__(self, images: Split, device: torch.device, resident: bool | None = None) -> None:
        self.split, self.device = images, device
        if resident is None:
            resident = device.type == "cuda" and not images.is_packed and _fits(images, device)
        self._kept: Tensor | None = images.images[:].to(device) if resident else None
        self._labels = images.labels.to(device)
        self._table: Tensor | None = None
        if device.type != "cpu" or resident:
            self._table = as_floats(torch.arange(256, dtype=torch.uint8)).to(device)
        self._reads_ahead = not resident and (images.is_packed or device.type == "cuda")
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[Tensor, Future[Tensor]] | None = None

    def augmented(
        self, rows: Int64[Tensor, " m"], augment: Any, generator: torch.Generator
    ) -> Float[Tensor, "m _ _ _"]:
        """Images at `rows`, augmented, on the device; raises `DataError` where they cannot be read."""
        pixels = self.pixels(rows)
        if getattr(augment, "takes_whole_images", False):
            return augment(self.floats(pixels), generator, rows=rows)
        return augment(self.floats(self.split.cropped(pixels)), generator)

    def pixels(self, rows: Int64[Tensor, " m"]) -> UInt8[Tensor, "m c h w"]:
        """The pixels at `rows`, on the device; raises what reading them ahead has raised."""
        if self._kept is not None:
            return self._kept[self._sent(rows)]
        announced, self._next = self._next, None
        if announced is not None and torch.equal(announced[0], rows):
            return announced[1].result().to(self.device, non_blocking=True)
        return self._read(rows).to(self.device, non_blocking=True)

    def labels(self, rows: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """The labels at `rows`, on the device."""
        return self._labels[self._sent(rows)]

    def floats(self, pixels: UInt8[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
        """Float32 images in [0, 1] of pixels on the device: the bits of `Split.x`."""
        if self._table is None:
            return as_floats(pixels)
        return self._table.index_select(0, pixels.flatten().int()).view(pixels.shape)

    def announce(self, rows: Int64[Tensor, " m"] | None) -> None:
        """Begin to read `rows`, which the next call of `pixels` will ask for; None: there is no next one."""
        if rows is None or not self._reads_ahead:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
        self._next = (rows, self._thread.submit(self._read, rows))

    def _read(self, rows: Tensor) -> Tensor:
        return self._pinned(self.split.images[rows])

    def _sent(self, rows: Tensor) -> Tensor:
        return self._pinned(rows).to(self.device, non_blocking=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        """From pinned memory a CUDA device takes a tensor without being waited for."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def _fits(images: Split, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return images.images.numel() <= _SHARE * free
