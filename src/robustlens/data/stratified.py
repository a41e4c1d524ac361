"""Stratified orders of the rows of a data set, from their labels alone."""

import heapq

import torch
from jaxtyping import Int64
from torch import Tensor

from robustlens import noise
from robustlens.errors import ConfigError

_SUBSET, _VALIDATION = 1, 2  # sub-streams of the data seed


def subset(labels: Int64[Tensor, " n"], n: int, seed: int, field: str) -> Int64[Tensor, " m"]:
    """Rows of a stratified subset of `n`, ascending.

    Raises:
        ConfigError: `n` is negative or larger than the data; `field` is in the line.
    """
    if not 0 <= n <= len(labels):
        raise ConfigError(f"{field}: found {n}, expected at most the {len(labels)} images that there are")
    return stratified_order(labels, noise.generator_for(seed, _SUBSET))[:n].sort().values


def validation_rows(
    labels: Int64[Tensor, " n"], share: float, seed: int
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " k"]]:
    """Positions of the validation images and of the images left for training, both ascending.

    Raises:
        ConfigError: `share` is outside [0, 1), or leaves nothing for training.
    """
    n = len(labels)
    if not 0 <= share < 1:
        raise ConfigError(
            f"data.validation: found {share}, expected a share of the training images in [0, 1)"
        )
    count = max(1, round(share * n)) if share else 0
    if count >= n:
        raise ConfigError(
            f"data.validation: found {share}, which leaves none of the {n} training images; lower it"
        )
    order = stratified_order(labels, noise.generator_for(seed, _VALIDATION))
    return order[:count].sort().values, order[count:].sort().values


def stratified_order(labels: Int64[Tensor, " n"], generator: torch.Generator) -> Int64[Tensor, " n"]:
    """A random order of all rows in which every prefix is stratified.

    Among the first m rows each class appears its share of m times, rounded down or up, for every m at once:
    Tijdeman's chairman assignment (1980). The schedule is built by earliest deadline first (Steiner and
    Yeomans 1993): occurrence j of a class that makes up a share p of the data comes at a place in
    [floor(j / p), ceil((j + 1) / p)). Which image of the class it is, and which class goes first among
    equals, is drawn from `generator`.
    """
    n = len(labels)
    shuffled = torch.randperm(n, generator=generator)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    occurrence = torch.arange(n) - starts[labels[grouped]]
    size = sizes[labels[grouped]]
    release = occurrence * n // size
    deadline = ((occurrence + 1) * n + size - 1) // size
    tie = torch.randperm(n, generator=generator)
    jobs = list(zip(deadline.tolist(), tie.tolist(), grouped.tolist(), strict=True))
    coming = release.argsort(stable=True).tolist()
    released = release.sort().values.tolist()
    waiting: list[tuple[int, int, int]] = []
    order, arrived = [], 0
    for place in range(n):
        while arrived < n and released[arrived] <= place:
            heapq.heappush(waiting, jobs[coming[arrived]])
            arrived += 1
        order.append(heapq.heappop(waiting)[2])
    return torch.tensor(order, dtype=torch.int64)
