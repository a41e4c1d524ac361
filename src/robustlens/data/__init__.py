"""Data: any of many sources to uint8 images in memory or packed, split into train, validation and test.

    splits = robustlens.data.load("cifar10", data_dir="~/data", train_limit=10_000)
    x, y = splits.train.x(), splits.train.labels      # float32 NCHW in [0, 1], int64

A new data set on the Hub is one row of `hub.HUB_DATASETS`; a new kind of source, one of `registry.READERS`.
"""

import os
from pathlib import Path

import torch

from robustlens.config import DataSpec
from robustlens.data import augment, hub, shards
from robustlens.data.arrays import from_tensors
from robustlens.data.packing import pack
from robustlens.data.reader import SplitReader, readable
from robustlens.data.registry import DATASETS, READERS, check_name, names, read, runs_code
from robustlens.data.sanity import sanity_warnings
from robustlens.data.shards import PackedImages
from robustlens.data.splits import Source, Sources, Split, Splits, assemble
from robustlens.errors import ConfigError, DataError
from robustlens.results import Run

__all__ = [
    "DATASETS",
    "READERS",
    "PackedImages",
    "Source",
    "Sources",
    "Split",
    "SplitReader",
    "Splits",
    "augment",
    "channel_statistics",
    "check_name",
    "check_source",
    "check_spec",
    "data_folder",
    "from_tensors",
    "load",
    "names",
    "of_run",
    "of_spec",
    "pack",
    "readable",
    "sanity_warnings",
]


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    unlabeled: int = 0,
) -> Splits:
    """Load a data set: into memory, but for packed images.

    Args:
        name: "fashion-mnist-10k" (comes with the package); "cifar10", "cifar100", "svhn", "mnist",
            "fashion_mnist", "tiny_imagenet" or any "hf:owner/name" (extra `hub`); "folder:PATH" with
            train/<class>/*.png and test/<class>/*.png; "idx:PATH" with the four IDX files; "npz:PATH" with
            x_train, y_train, x_test, y_test (see `from_tensors` for shapes and types); "packed:PATH", a
            folder that `pack` wrote, whose images stay on the disk; "packed:PATH?crop=224": their middle;
            "package.module:factory", a function of yours that returns these four arrays.
        data_dir: for names of the Hub, a folder that holds the data set's folder (DIR/cifar10/*.parquet) or
            its files; $ROBUSTLENS_DATA if absent, and if that is absent too, the Hub.
        validation: share of the training images held out, stratified; 0 for none.
        seed: of the subsets and of the validation split.
        train_limit: use that many training images, counted before the validation split is taken out. Subsets
            are stratified and, for one seed, nested; only their images are decoded.
        test_limit: use that many test images, likewise.
        unlabeled: take that many training images beyond `train_limit` as `Splits.unlabeled`.

    Raises:
        ConfigError: an unknown name, or a limit or a share that cannot be met.
        DataError: files that are missing, damaged or of another kind, or an extra that is absent.
        ResourceError: no room for the copy of parquet files that is made while they are read.

    >>> splits = load("fashion-mnist-10k", train_limit=100, test_limit=10)
    >>> len(splits.train), len(splits.validation), len(splits.test), splits.shape
    (90, 10, 10, (1, 28, 28))
    """
    sources = read(name, None if data_dir is None else Path(data_dir))
    return assemble(
        sources,
        name,
        validation=validation,
        seed=seed,
        train_limit=train_limit,
        test_limit=test_limit,
        unlabeled=unlabeled,
    )


def of_spec(spec: DataSpec, *, trust_code: bool = False) -> Splits:
    """The data that a recipe names; raises as `load` does.

    Args:
        spec: of the recipe.
        trust_code: allow a "package.module:factory", as for a recipe that the user gave. Off for a recipe
            that lies in a run folder, which may come from anyone.
    """
    if runs_code(spec.name) and not trust_code:
        raise DataError(
            f"data.name: {spec.name!r} is code from outside the run; load it with trust_code=True "
            "(--trust-code) if you trust both"
        )
    return load(
        spec.name,
        data_dir=spec.data_dir,
        validation=spec.validation,
        seed=spec.seed,
        train_limit=spec.train_limit,
        test_limit=spec.test_limit,
        unlabeled=spec.unlabeled,
    )


def check_spec(spec: DataSpec, splits: Splits) -> None:
    """Refuse images that a recipe does not name: it would be kept, and believed, with a run of these.

    Raises:
        ConfigError: another name, or other numbers of images than its limits.
    """
    if splits.name != spec.name:
        raise ConfigError(
            f"recipe.data.name: found {spec.name!r}, but the splits are {splits.name!r}, expected one name; "
            f"put data: {{name: {splits.name!r}}} into the recipe"
        )
    counts = {
        "train_limit": len(splits.train) + len(splits.validation),
        "test_limit": len(splits.test),
    }
    for field, count in counts.items():
        limit = getattr(spec, field)
        if limit not in (None, count):
            raise ConfigError(
                f"recipe.data.{field}: found {limit}, but the splits have {count} images; leave it out, or "
                "give it when you load them"
            )


def check_source(spec: DataSpec, whose: str) -> None:
    """Refuse data of a run that no name leads to: images in memory, of which a recipe keeps the name alone.

    Raises:
        ConfigError: no reader knows the name; `whose` is the run, for the message.
    """
    try:
        check_name(spec.name)
    except ConfigError as error:
        raise ConfigError(
            f"{whose}: was trained on images in memory ({spec.name!r}), so they have to be given again, with "
            "splits= in Python or --data"
        ) from error


def of_run(run: Run, splits: Splits | None = None, *, trust_code: bool = False) -> Splits:
    """The images of a run: `splits` where the caller has loaded them already.

    Raises:
        ConfigError: no name leads to them: they were in memory.
        DataError: they cannot be read, or the run names a function and `trust_code` is not given.
        StateError: they are not those that the run was trained on.
    """
    if splits is None:
        check_source(run.data_spec, str(run.folder))
        splits = of_spec(run.data_spec, trust_code=trust_code)
    run.check_data(splits.fingerprint)
    return splits


def data_folder(spec: DataSpec) -> str | None:
    """The folder that data files are read from, in full; None where nobody names one."""
    folder = hub.data_folder(spec.data_dir)
    return None if folder is None else str(folder.resolve())


def channel_statistics(images: shards.Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images in [0, 1], exact, six decimals.

    Raises:
        DataError: a packed image cannot be read or is damaged.
    """
    packed = isinstance(images, shards.PackedImages)
    counts = images.histogram() if packed else shards.histogram(images)
    share = counts.double() / counts.sum(1, keepdim=True)
    level = torch.arange(256).double() / 255
    mean = share @ level
    std = (share @ level.square() - mean.square()).clamp_min(0).sqrt()
    return [round(value, 6) for value in mean.tolist()], [
        round(max(value, 1e-3), 6) for value in std.tolist()
    ]
