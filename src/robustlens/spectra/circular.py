"""Convolutions that wrap around: the DFT makes them block diagonal (Sedghi, Gupta and Long 2019)."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.spectra.layers import Size
from robustlens.spectra.workers import decomposition, descending, workers

_CHUNK_BYTES = 2**26
"""Of frequency blocks that a worker holds at a time; more would bring nothing."""
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


def circular_singular_values(
    weight: Float[Tensor, "outputs inputs *kernel"],
    size: Size,
    *,
    stride: Size | None = None,
    dilation: Size | None = None,
    groups: int = 1,
    dtype: torch.dtype = torch.float64,
    method: str = "svd",
    max_bytes: int | None = None,
) -> np.ndarray:
    """Singular values of a circular convolution on a map of any number of sides, descending, float64.

    In the orthonormal DFT basis, stride 1 maps each frequency f to itself by the (c_out, c_in) matrix
    K(f) = sum_k weight[k] exp(2 pi i <f, k>), where <f, k> = f_h k_h / h + f_w k_w / w on an (h, w) map.
    Keeping every s-th pixel folds the s_h * s_w frequencies that agree modulo (h / s_h, w / s_w) onto one,
    g, and scales by 1 / sqrt(s_h s_w): the block of g is [K(f_1), K(f_2), ...] / sqrt(s_h s_w). Blocks of g
    and -g are conjugate, up to the order of their columns, so about half of them are decomposed, and
    counted twice. Padding shifts the input, which is orthogonal, and drops out. A kernel larger than the
    map wraps around by itself.

    Blocks are built and decomposed a few at a time, by as many workers as torch has threads.

    Args:
        weight: (c_out, c_in / groups, *kernel).
        size: of the input map, side by side, multiples of `stride`.
        stride: side by side; None for 1.
        dilation: side by side; None for 1.
        groups: of channels; each gives its own blocks.
        dtype: in which blocks are decomposed.
        method: of decomposition, "svd" or "gram"; see `spectrum`.
        max_bytes: of blocks in memory, but for one block for each worker, which there must be.

    Raises:
        ConfigError: `stride` does not divide `size`; unknown method.
    """
    stride, dilation = stride or (1,) * len(size), dilation or (1,) * len(size)
    if any(side % step for side, step in zip(size, stride, strict=True)):
        raise ConfigError(f"spectrum: found stride {stride} on a {size} feature map, expected a divisor")
    values_of = decomposition(method)
    outputs, inputs, *kernel = weight.shape
    map_size = torch.tensor(size)
    coarse = tuple(side // step for side, step in zip(size, stride, strict=True))
    taps = _grid(tuple(kernel)) * torch.tensor(dilation) % map_size
    frequencies, counts = _half(coarse)
    if not taps.any():  # a 1x1 kernel has the same block at every frequency
        frequencies, counts = frequencies[:1], counts.sum(0, keepdim=True)
    aliases = _grid(stride) * torch.tensor(coarse)
    matrix = weight.detach().cpu().flatten(2).permute(2, 0, 1).flatten(1).to(torch.complex128)

    def decompose(some: Tensor) -> Tensor:
        folded = frequencies[some, None] + aliases
        # Reduced in integers first, so that the angles are good to the last bit.
        turns = (folded[:, :, None] * taps % map_size / map_size.double()).sum(-1)
        waves = torch.exp(2j * math.pi * turns) / math.sqrt(math.prod(stride))
        blocks = (waves @ matrix).unflatten(2, (groups, outputs // groups, inputs))
        blocks = blocks.permute(0, 2, 3, 1, 4).flatten(3)  # (some, groups, outputs, aliases * inputs)
        real = not (2 * turns % 1).any()  # every wave is 1 or -1, at f = -f: a quarter of the work
        values = values_of(blocks.real.to(dtype) if real else blocks.to(_COMPLEX[dtype]))
        return values.flatten(1).repeat_interleave(counts[some], 0).flatten()

    threads = torch.get_num_threads()
    budget = _CHUNK_BYTES if max_bytes is None else min(_CHUNK_BYTES, max_bytes // threads)
    fits = budget // (16 * outputs * inputs * len(aliases))
    shared = len(frequencies) // (8 * threads)  # so that no worker waits long for the last one
    chunks = torch.arange(len(frequencies)).split(max(1, min(fits, shared)))
    with workers() as pool:
        return descending(torch.cat(list(pool.map(decompose, chunks))))


def _half(size: Size) -> tuple[Tensor, Tensor]:
    """One frequency (m, sides) of each pair f, -f modulo `size`, and how many it stands for (1 or 2)."""
    frequencies = _grid(size)
    place = torch.arange(len(frequencies))
    mirror = (-frequencies % torch.tensor(size)) @ torch.tensor(
        [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    )
    kept = place <= mirror
    return frequencies[kept], torch.where(place == mirror, 1, 2)[kept]


def _grid(size: Size) -> Tensor:
    """All integer points of a box in row order, (points, sides)."""
    return torch.cartesian_prod(*map(torch.arange, size)).view(-1, len(size))
