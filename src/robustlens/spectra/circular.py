"""Convolutions that wrap around: the DFT makes them block diagonal (Sedghi, Gupta and Long 2019)."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from robustlens.errors import ConfigError
from robustlens.spectra.layers import Pair
from robustlens.spectra.workers import decomposition, descending, workers

_CHUNK_BYTES = 2**26
"""Of frequency blocks that a worker holds at a time; more would bring nothing."""
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


def circular_singular_values(
    weight: Float[Tensor, "outputs inputs kh kw"],
    size: Pair,
    *,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
    dtype: torch.dtype = torch.float64,
    method: str = "svd",
    max_bytes: int | None = None,
) -> np.ndarray:
    """Singular values of a circular convolution on an (h, w) map, descending, float64.

    In the orthonormal DFT basis, stride 1 maps each frequency f to itself by the (c_out, c_in) matrix
    K(f) = sum_k weight[k] exp(2 pi i <f, k>), where <f, k> = f_h k_h / h + f_w k_w / w. Keeping every s-th
    pixel folds the s_h * s_w frequencies that agree modulo (h / s_h, w / s_w) onto one, g, and scales by
    1 / sqrt(s_h s_w): the block of g is [K(f_1), K(f_2), ...] / sqrt(s_h s_w). Blocks of g and -g are
    conjugate, up to the order of their columns, so about half of them are decomposed, and counted twice.
    Padding shifts the input, which is orthogonal, and drops out. A kernel larger than the map wraps
    around by itself.

    Blocks are built and decomposed a few at a time, by as many workers as torch has threads.

    Args:
        weight: (c_out, c_in / groups, kh, kw).
        size: (h, w) of the input map, multiples of `stride`.
        stride: vertical and horizontal.
        dilation: vertical and horizontal.
        groups: of channels; each gives its own blocks.
        dtype: in which blocks are decomposed.
        method: of decomposition, "svd" or "gram"; see `spectrum`.
        max_bytes: of blocks in memory, but for one block for each worker, which there must be.

    Raises:
        ConfigError: `stride` does not divide `size`; unknown method.
    """
    if size[0] % stride[0] or size[1] % stride[1]:
        raise ConfigError(f"spectrum: found stride {stride} on a {size} feature map, expected a divisor")
    values_of = decomposition(method)
    outputs, inputs, *kernel = weight.shape
    map_size, coarse = torch.tensor(size), (size[0] // stride[0], size[1] // stride[1])
    taps = _grid((kernel[0], kernel[1])) * torch.tensor(dilation) % map_size
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


def _half(size: Pair) -> tuple[Tensor, Tensor]:
    """One frequency (m, 2) of each pair f, -f modulo `size`, and how many it stands for (1 or 2)."""
    frequencies = _grid(size)
    place = torch.arange(len(frequencies))
    mirror = (-frequencies % torch.tensor(size)) @ torch.tensor([size[1], 1])
    kept = place <= mirror
    return frequencies[kept], torch.where(place == mirror, 1, 2)[kept]


def _grid(size: Pair) -> Tensor:
    """All integer points of a rectangle in row order, (size[0] * size[1], 2)."""
    return torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))
