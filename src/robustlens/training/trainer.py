"""Training: recipe -> data -> batch -> attack -> objective at w (or w + v) -> step -> checkpoint.

A run can be killed at any moment and goes on at its last finished epoch, at the step at which a signal
stopped it, or at the last one after which a state was written, every so many minutes. Its numbers are those
of an undisturbed run: the order of the images, the augmentation and the starts are functions of (seed,
epoch, step), not of a generator that would have to be saved. The training state is written last in every
epoch and is the only file that a resumed run believes.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from robustlens import data, machine, models, processes
from robustlens.config import DataSpec, Recipe, checked
from robustlens.data import Split, Splits
from robustlens.errors import ConfigError, DataError, LockedError, RobustlensError, StateError, StoppedError
from robustlens.machine import float32_products, kept_memory, repeatable
from robustlens.progress import Listener, of_part, silent, to_all
from robustlens.registry import imported, one_line
from robustlens.results import ErrorRecord, Run
from robustlens.tracking import Tracking, tracked
from robustlens.training.distributed import connect, products, run_at, writer_lock
from robustlens.training.loop import TrainingLoop
from robustlens.training.pseudo_labels import pseudo_label, teacher_recipe, write_pseudo_labels

_log = logging.getLogger("robustlens")


def train(
    recipe: Recipe | dict[str, Any],
    out: Path | str | None = None,
    *,
    splits: Splits | None = None,
    device: str = "auto",
    checkpoint_minutes: float = 30.0,
    progress: Listener = silent,
    listeners: Sequence[Listener] = (),
    track: Tracking | Sequence[str] = (),
) -> Run:
    """Train one network, or go on with it, and return its run folder.

    Under torchrun the processes train one network together (`training.distributed`): each takes its share of
    every batch, and the first one writes.

    Args:
        recipe: everything that determines the result, as a `Recipe` or the mapping of one.
        out: the run folder; None for `robustlens-out/<hash of the recipe>`. A finished run is returned
            as it is; an unfinished one goes on after its last saved epoch.
        splits: the data of the recipe where the caller has loaded it already, of the name in the recipe.
        device: "auto" (CUDA where there is a device), "cpu", "cuda" or "cuda:1"; no part of the recipe.
        checkpoint_minutes: between two states that are written inside an epoch, for where a run is killed.
        progress: hears an event at every step.
        listeners: hear the same events, in the first process alone. The event at the end of an epoch has
            `step`, the epoch from 1, and `metrics` (`results.EpochRecord.metrics`), and is never left out.
        track: names of trackers, as ["tensorboard"], or a `tracking.Tracking` that says where they write.

    Raises:
        ConfigError: the recipe is wrong or names other data than `splits`, or the package of a tracker is not
            installed.
        DataError: the data cannot be read.
        ResourceError: there is no such device.
        NumericsError: the loss or a weight stopped being finite; the last good checkpoint is kept.
        LockedError: another process trains in `out`.
        StateError: `out` belongs to another recipe or to other images, or a file in it is damaged.
    """
    recipe = checked(Recipe, recipe, "recipe")
    machine.device(device)
    tracking = track if isinstance(track, Tracking) else Tracking(tuple(track))
    listeners = (*listeners, *map(_listener, recipe.listeners))
    connect(recipe.precision, device)
    run = run_at(Path(out) if out is not None else Path("robustlens-out") / recipe.hash())
    splits = _images_of(run, recipe, splits)
    if processes.told_by_first(lambda: run.record.is_trained):
        with tracked(run, recipe, tracking):
            return run
    hearers: list[Listener] = [progress]
    if not run.read_only:
        hearers += listeners
    # Data and network first: a wrong recipe leaves no file behind.
    loop = TrainingLoop(recipe, run, splits, to_all(hearers), device, checkpoint_minutes)
    for warning in () if run.read_only else data.sanity_warnings(splits):
        _log.warning("data: %s", warning)
    with writer_lock(run):
        processes.told_by_first(lambda: run.bind(recipe))
        try:
            on, fast = loop.fabric.device, recipe.fast
            with float32_products(products(recipe.precision)), repeatable(on, fast=fast), kept_memory():
                loop.resume()
                if recipe.pseudo_labels is not None:
                    loop.step.use(_with_pseudo_labels(loop, checkpoint_minutes))
                with tracked(run, recipe, tracking) as tracker:
                    hearers.append(tracker)
                    loop.run_all_epochs()
        except (StoppedError, StateError, LockedError):
            raise  # a stop is no failure, and a folder that is refused stays as it is
        except RobustlensError as error:
            run.update(status="failed", error=ErrorRecord.of(error))
            raise
    loop.fabric.barrier()  # the files of the first rank are there for all
    return run


def _listener(name: str) -> Listener:
    """The listener that a recipe names: a function, or an object of a class without arguments.

    Raises:
        ConfigError: it cannot be imported, made or called.
    """
    listener = imported(name, "recipe.listeners")
    try:
        listener = listener() if isinstance(listener, type) else listener
    except Exception as error:  # code of the user's can raise anything
        raise ConfigError(f"recipe.listeners {name!r}: failed ({one_line(error)}); mend it") from error
    if not callable(listener):
        raise ConfigError(f"recipe.listeners {name!r}: found {type(listener).__name__}, expected a function")
    hear: Listener = listener
    return hear


def _images_of(run: Run, recipe: Recipe, splits: Splits | None) -> Splits:
    """The images that all ranks train on, those of the run; the first rank alone looks into its folder."""

    def spec() -> DataSpec:
        run.check(recipe)
        if splits is not None and not run.has_recipe:
            data.check_spec(recipe.data, splits)
        return run.data_spec if run.has_recipe and recipe.data.data_dir is None else recipe.data

    of = processes.told_by_first(spec)
    loaded = splits or processes.all_finish(lambda: data.of_spec(of, trust_code=True))
    processes.told_by_first(lambda: run.check_data(loaded.fingerprint))
    expected = processes.told_by_first(lambda: loaded.fingerprint)

    def check() -> None:
        if loaded.fingerprint != expected:
            raise DataError(
                f"data: found images {loaded.fingerprint} in process {processes.rank()}, expected {expected} "
                "as in the first one; give all of them the same data folder"
            )

    processes.all_finish(check)
    return loaded


def _with_pseudo_labels(loop: TrainingLoop, checkpoint_minutes: float) -> Split:
    """The training images, and after them the unlabeled ones as a standard network labels them."""
    recipe, splits = loop.recipe, loop.splits
    assert splits.unlabeled is not None
    teacher = train(
        teacher_recipe(recipe),
        loop.run.path("teacher"),
        splits=replace(splits, unlabeled=None),
        device=str(loop.fabric.device),
        checkpoint_minutes=checkpoint_minutes,
        progress=of_part(loop.listener, "teacher"),
    )
    unlabeled = splits.unlabeled

    def label() -> Tensor:
        network = models.load(teacher.folder, checkpoint="best", trust_code=recipe.names_code)
        on = loop.fabric.device
        return pseudo_label(network.to(on), unlabeled, 2 * recipe.optimizer.batch_size).labels

    pool = replace(unlabeled, labels=processes.told_by_first(label))
    write_pseudo_labels(loop.run, pool, splits.unlabeled.labels)
    return splits.train.followed_by(pool)
