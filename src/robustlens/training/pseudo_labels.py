"""Unlabeled images in training (RST, Carmon et al. 2019): who labels them, and how batches are mixed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustlens import models
from robustlens.config import Recipe
from robustlens.data import Split
from robustlens.errors import ConfigError

Order = Callable[[torch.Generator], list[Tensor]]
"""The batches of an epoch as positions in the training images: `order(generator) -> [rows, ...]`."""


def teacher_recipe(recipe: Recipe) -> Recipe:
    """How the network is trained that labels the unlabeled images: standard training on the labelled ones."""
    assert recipe.pseudo_labels is not None
    return Recipe(
        data=recipe.data.model_copy(update={"unlabeled": 0}),
        model=recipe.model,
        objective="standard",
        optimizer=recipe.pseudo_labels.teacher,
        monitor=recipe.monitor,
        precision=recipe.precision,
        seed=recipe.seed,
    )


def pseudo_label(network: nn.Module, pool: Split, batch_size: int) -> Split:
    """`pool` with the classes that `network` predicts, in eval mode, in place of its labels."""
    device = models.device_of(network)
    with models.inference(network):
        found = [
            network(pool.x(rows).to(device)).argmax(1).cpu()
            for rows in torch.arange(len(pool)).split(batch_size)
        ]
    return replace(pool, labels=torch.cat(found))


def batch_order(recipe: Recipe, labelled: int) -> Order:
    """How an epoch goes through `labelled` images, and through the pseudo-labelled ones that follow them.

    Without pseudo-labels an epoch is one pass in random order, less the last incomplete batch. With them each
    batch holds its share of both kinds; an epoch is one pass through the labelled images, and the others
    are drawn without repetition as far as they go.

    Raises:
        ConfigError: there are fewer images than one batch takes of them.
    """
    size, pool = recipe.optimizer.batch_size, recipe.data.unlabeled
    share = 0.0 if recipe.pseudo_labels is None else recipe.pseudo_labels.share
    theirs = round(share * size)
    own = size - theirs
    if recipe.pseudo_labels is not None and not (0 < theirs <= pool and 0 < own <= labelled):
        raise ConfigError(
            f"pseudo_labels.share: found {share:g}, which makes batches of {own} of {labelled} labelled and "
            f"{theirs} of {pool} unlabeled images; expected some of each"
        )
    steps = max(1, labelled // own)

    def order(generator: torch.Generator) -> list[Tensor]:
        mine = torch.randperm(labelled, generator=generator).split(own)[:steps]
        if not theirs:
            return list(mine)
        passes = -(-steps * theirs // pool)
        drawn = torch.cat([torch.randperm(pool, generator=generator) for _ in range(passes)])
        return [
            torch.cat([rows, labelled + others])
            for rows, others in zip(mine, drawn.split(theirs)[:steps], strict=True)
        ]

    return order
