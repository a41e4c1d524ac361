"""Image tables read with the `datasets` library (extra `hub`): parquet files and repositories of the Hub.

Only the labels are read at first. Images stay encoded until their rows are chosen; then `pixels` decodes
them, so that tables and image folders go through the same checks.
"""

import contextlib
import errno
import glob
import importlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from robustlens.data import parquet_files
from robustlens.data.arrays import class_names
from robustlens.data.fingerprint import of_files
from robustlens.data.pixels import decode, read_each
from robustlens.data.splits import Source, Sources, in_one_line
from robustlens.errors import DataError, ResourceError
from robustlens.extras import install_extra

ONLINE = "check the name and the network, or give a folder that holds the files as data_dir"
_BATCH = 32  # encoded images in memory at a time while decoding
_MAPS_WITHOUT_NAME = os.name == "posix"


@dataclass(frozen=True)
class Columns:
    """Names of the columns; an empty one is derived from the features."""

    image: str = ""
    label: str = ""


class _WorkingCopy:
    """Folder of the library's working copy, as large as the data and never beside it.

    It is mapped into memory, so it stays as long as somebody holds this, and goes then, or when Python ends.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="robustlens-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def unlink(self) -> None:
        """Take its name away where what is mapped stays without one: then a kill leaves nothing behind."""
        if _MAPS_WITHOUT_NAME:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class ImageTable:
    """One split: `rows` is a `datasets.Dataset`, `place` names a row for an error message.

    `fingerprint` is that of what it was read from, as it was then. `copy` is what `rows` maps into memory, if
    that is ours. It stands behind them, to be released after them: Windows removes no file that is mapped.
    """

    rows: Any
    where: str
    place: Callable[[int], str]
    fingerprint: str
    copy: _WorkingCopy | None = None

    def labels(self, column: str) -> Int64[Tensor, " n"]:
        """The label of every row; raises `DataError` where one is missing or no integer."""
        values = self.rows.select_columns([column]).with_format("arrow")[:].column(0)
        if values.null_count:
            without = f"{values.null_count} of {len(values)} rows have no {column}"
            raise DataError(f"{self.where}: {without}, expected one in each; remove those rows")
        try:
            return torch.from_numpy(values.to_numpy().astype(np.int64, casting="safe"))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self.where}: column {column} holds {values.type}, expected integers"
            ) from error

    def images(self, column: str, rows: Int64[Tensor, " m"]) -> UInt8[Tensor, "m c h w"]:
        """The decoded images of `rows`; raises `DataError` naming the row that cannot be decoded."""
        chosen = rows.tolist()
        return decode(self._encoded(column, chosen), len(chosen), lambda i: self.place(chosen[i]))

    def each(self, column: str, rows: Int64[Tensor, " m"]) -> Iterator[NDArray[np.uint8]]:
        """The decoded images of `rows` one by one, (h, w, 1 or 3), of any size; raises as `images`."""
        chosen = rows.tolist()
        return read_each(self._encoded(column, chosen), lambda i: self.place(chosen[i]))

    def _encoded(self, column: str, rows: list[int]) -> Iterator[bytes | Path]:
        table = self.rows.select_columns([column]).with_format("arrow")
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            for row, cell in zip(some, table[some].column(0).to_pylist(), strict=True):
                if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
                    raise DataError(f"{self.place(row)}: column {column} is empty, expected an image")
                yield cell["bytes"] or Path(cell["path"])


def from_files(
    files: dict[str, list[Path]], columns: Columns, where: str, classes: tuple[str, ...] = ()
) -> Sources:
    """Sources from the parquet files of "train" and "test".

    Raises:
        DataError: a file that cannot be read or names other classes, columns that are ambiguous, or the extra
            is absent.
        ResourceError: no room for the library's copy.
    """
    with library(where, "download the files again") as datasets, parquet_files.naming_the_bad_file(files):
        # Before the library reads them: what changes from then on has another one.
        fingerprints = {split: of_files(paths, paths[0].parent) for split, paths in files.items()}
        copy = _WorkingCopy()
        splits = datasets.load_dataset(
            "parquet",
            data_files={split: [glob.escape(str(path)) for path in paths] for split, paths in files.items()},
            cache_dir=str(copy.folder),
            keep_in_memory=False,
        )
        copy.unlink()
        train, test = (
            ImageTable(
                splits[split],
                f"{where}: {split}",
                partial(parquet_files.place, files[split]),
                fingerprints[split],
                copy,
            )
            for split in ("train", "test")
        )
        chosen = _chosen(train, columns, datasets)
        parquet_files.check_classes(files, chosen.label, datasets)
        return _sources(train, test, chosen, classes)


def from_repository(repo: str, config: str, columns: Columns, choose_test: Callable[[Any], str]) -> Sources:
    """Sources from a repository of the Hub in any form that the library knows; it is cached by the library.

    Raises:
        DataError: it cannot be reached or read, lacks a split, its columns are ambiguous, or a parquet file
            names other classes than the first.
    """
    where = f"hf:{repo}"
    with library(where, ONLINE) as datasets:
        builder = datasets.load_dataset_builder(repo, name=config or None)
        builder.download_and_prepare()
        splits = builder.as_dataset()
        test = choose_test(splits)
        for split in ("train", test):
            if split not in splits:
                shown = ", ".join(splits)
                raise DataError(
                    f"{where}: no split {split!r}, found {shown}; name the test split: {where}?test=NAME"
                )
        train_table, test_table = (
            ImageTable(
                splits[split],
                f"{where}: {split}",
                f"{where}: {split}, row {{}}".format,
                getattr(splits[split], "_fingerprint", ""),  # the library's, of the commit
            )
            for split in ("train", test)
        )
        chosen = _chosen(train_table, columns, datasets)
        if builder.name == "parquet":
            files = {"train": builder.config.data_files["train"], "test": builder.config.data_files[test]}
            parquet_files.check_classes(files, chosen.label, datasets)
        return _sources(train_table, test_table, chosen, ())


@contextlib.contextmanager
def library(where: str, fix: str) -> Iterator[Any]:
    """The `datasets` library, kept quiet; its errors become one line about `where`, with the `fix`."""
    try:
        datasets, hub = (importlib.import_module(name) for name in ("datasets", "huggingface_hub"))
    except ImportError as error:
        raise DataError(f"{where}: needs the package {error.name}; {install_extra('hub')}") from error
    # Reading is silent; only a download may show itself, and only on a terminal.
    chatty = [datasets] if sys.stderr.isatty() else [datasets, hub.utils]
    chatty = [part for part in chatty if not part.are_progress_bars_disabled()]
    loggers = [datasets.logging, hub.utils.logging]
    levels = [logger.get_verbosity() for logger in loggers]
    try:
        for part in chatty:
            part.disable_progress_bars()
        for logger in loggers:
            logger.set_verbosity(logger.CRITICAL)
        yield datasets
    except (DataError, MemoryError):
        raise
    except Exception as error:  # it raises a dozen unrelated types for bad or unreachable data
        if _disk_is_full(error):
            raise ResourceError(
                f"{where}: needs room for a copy of its files, found none in {tempfile.gettempdir()} or the "
                "library's cache; free some space or set TMPDIR (HF_HOME) to another folder"
            ) from error
        raise DataError(
            f"{where}: cannot be read ({type(error).__name__}: {in_one_line(error)}); {fix}"
        ) from error
    finally:
        for part in chatty:
            part.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a disk or a quota without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _chosen(train: ImageTable, columns: Columns, datasets: Any) -> Columns:
    """The image and the label column: those that are named, or the only ones."""
    features = train.rows.features
    images = [name for name, feature in features.items() if _is_image(feature, datasets)]
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    whole = [name for name, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))]
    image = _column("image", columns.image, images, train.where, list(features))
    return Columns(image, _column("label", columns.label, named or whole, train.where, list(features)))


def _sources(train: ImageTable, test: ImageTable, columns: Columns, classes: tuple[str, ...]) -> Sources:
    """Sources from one image and one label column of both tables."""
    train_labels, test_labels = train.labels(columns.label), test.labels(columns.label)
    named = getattr(train.rows.features[columns.label], "names", None)
    names = tuple(named or classes) or class_names(train_labels, train.where)
    return Sources(_source(train, train_labels, columns), _source(test, test_labels, columns), names)


def _source(table: ImageTable, labels: Int64[Tensor, " n"], columns: Columns) -> Source:
    images, each = partial(table.images, columns.image), partial(table.each, columns.image)
    return Source(labels, images, table.where, each=each, fingerprint=lambda _: table.fingerprint)


def _is_image(feature: Any, datasets: Any) -> bool:
    """An image feature, or its bare storage in a file without features."""
    return isinstance(feature, datasets.Image) or (
        isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
    )


def _column(kind: str, chosen: str, candidates: list[str], where: str, every: list[str]) -> str:
    """The chosen column, or the only candidate."""
    if chosen and chosen not in every:
        raise DataError(
            f"{where}: no {kind} column {chosen!r}, found {', '.join(every)}; is it another data set?"
        )
    if not chosen and len(candidates) != 1:
        shown = f"{len(candidates)} ({', '.join(candidates)})" if candidates else "none"
        raise DataError(
            f"{where}: expected one {kind} column, found {shown} among {', '.join(every)}; name it: "
            f"hf:owner/name?{kind}=COLUMN"
        )
    return chosen or candidates[0]
