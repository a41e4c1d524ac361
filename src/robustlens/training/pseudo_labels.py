"""Pseudo-labels for unlabeled images (RST, Carmon et al. 2019), and batches of both kinds of images."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustlens import models
from robustlens.config import Recipe, ThreatSpec
from robustlens.data import Split
from robustlens.errors import ConfigError
from robustlens.results import PseudoLabelRecord, Run

Order = Callable[[torch.Generator], list[Tensor]]
"""Batches of an epoch, as positions in the training images: `order(generator) -> [rows, ...]`."""


def teacher_recipe(recipe: Recipe) -> Recipe:
    """Recipe of the network that labels the unlabeled images: standard training on the labelled ones.

    Its threat is none. At a radius, the best epoch of standard training is one of the first, whose labels are
    wrong most often: robust accuracy falls while clean accuracy rises.
    """
    assert recipe.pseudo_labels is not None
    return Recipe(
        data=recipe.data.model_copy(update={"unlabeled": 0}),
        model=recipe.model,
        threat=ThreatSpec(norm=recipe.threat.norm, eps=0.0),
        objective="standard",
        optimizer=recipe.pseudo_labels.teacher,
        monitor=recipe.monitor,
        precision=recipe.precision,
        sync_batch_norm=recipe.sync_batch_norm,
        compile=recipe.compile,
        fast=recipe.fast,
        seed=recipe.seed,
    )


def pseudo_label(network: nn.Module, pool: Split, batch_size: int) -> Split:
    """`pool` with the classes that `network` predicts, in eval mode, in place of its labels."""
    device = models.device_of(network)
    with models.inference(network):
        labels = [
            network(pool.x(rows).to(device)).argmax(1).cpu()
            for rows in torch.arange(len(pool)).split(batch_size)
        ]
    return replace(pool, labels=torch.cat(labels))


def write_pseudo_labels(run: Run, pool: Split, true_labels: Tensor) -> None:
    """Keep the pseudo-labels of `pool` in the run's folder, and how many of them are right."""
    right = (pool.labels == true_labels).double().mean()
    run.update(pseudo_labels=PseudoLabelRecord(len(pool), float(right)))
    run.write_arrays("pseudo_labels", {"index": pool.index.numpy(), "label": pool.labels.numpy()})


def batch_order(recipe: Recipe, labelled: int, processes: int = 1) -> Order:
    """Order in which an epoch takes `labelled` images, and the pseudo-labelled ones that follow them.

    Without pseudo-labels an epoch is one pass in random order, less the last incomplete batch. With them each
    batch holds its share of both kinds; an epoch is one pass through the labelled images, and the others
    are drawn without repetition as far as they go. Several `processes` share each batch equally.

    Raises:
        ConfigError: there are fewer images than one batch takes of them, or they cannot be shared so.
    """
    batch_size, pool = recipe.optimizer.batch_size, recipe.data.unlabeled
    _check_shares(batch_size, batch_size if recipe.pseudo_labels else labelled, processes)
    share = 0.0 if recipe.pseudo_labels is None else recipe.pseudo_labels.share
    from_pool = round(share * batch_size)
    from_labelled = batch_size - from_pool
    if recipe.pseudo_labels is not None and not (0 < from_pool <= pool and 0 < from_labelled <= labelled):
        raise ConfigError(
            f"pseudo_labels.share: found {share:g}, which makes batches of {from_labelled} of {labelled} "
            f"labelled and {from_pool} of {pool} unlabeled images; expected some of each"
        )
    steps = max(1, labelled // from_labelled)

    def order(generator: torch.Generator) -> list[Tensor]:
        batches = torch.randperm(labelled, generator=generator).split(from_labelled)[:steps]
        if not from_pool:
            return list(batches)
        passes = -(-steps * from_pool // pool)
        pool_rows = torch.cat([torch.randperm(pool, generator=generator) for _ in range(passes)])
        return [
            torch.cat([rows, labelled + others])
            for rows, others in zip(batches, pool_rows.split(from_pool)[:steps], strict=True)
        ]

    return order


def _check_shares(batch_size: int, images: int, processes: int) -> None:
    """Refuse batches whose shares differ: processes wait for each other, and gradients are averaged alike."""
    if batch_size % processes:
        raise ConfigError(
            f"optimizer.batch_size: found {batch_size} for {processes} processes, "
            "expected a multiple of their number"
        )
    if min(batch_size, images) % processes:
        most = images // processes * processes
        fix = f"lower it to {most} or start fewer processes" if most else "start fewer processes"
        raise ConfigError(
            f"optimizer.batch_size: found {batch_size}, which makes one batch of all {images} training "
            f"images for {processes} processes, expected a multiple of their number; {fix}"
        )
