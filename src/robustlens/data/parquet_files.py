"""Parquet files of a data set: whether all are there, the classes that they name, and the one to blame."""

import contextlib
import importlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from robustlens.data.splits import in_one_line
from robustlens.errors import DataError

_AT_A_TIME = 8
_NUMBERED = re.compile(r"(?P<split>[^-]+)-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?")


def check_complete(paths: list[Path]) -> None:
    """Raise `DataError` where the files of a split lack one, or are of several downloads.

    They would be joined as they are: a missing one makes less data, and the same images in other files more.

    Args:
        paths: all parquet files of the split, sorted: `train-00000-of-00002.parquet` and so on as the Hub has
            them, `train.parquet`, or any other `train-*.parquet`.
    """
    by_layout: dict[str, list[Path]] = {}
    for path in paths:
        by_layout.setdefault(_layout(path), []).append(path)
    first, *others = by_layout.values()
    if others:
        raise DataError(
            f"{others[0][0]}: lies beside {first[0]}, expected the files of one download; remove the other's"
        )
    if _NUMBERED.fullmatch(paths[0].stem):
        _check_numbers(paths)


def _layout(path: Path) -> str:
    """The same for all files of one download of a split."""
    numbered = _NUMBERED.fullmatch(path.stem)
    if numbered:
        return f"of {int(numbered['count'])}"
    return "parts" if "-" in path.stem else "whole"


def _check_numbers(paths: list[Path]) -> None:
    """Raise `DataError` where the files are not those numbered 0 to their common count, each once."""
    numbered = [match for path in paths if (match := _NUMBERED.fullmatch(path.stem))]
    numbers, count = [int(match["number"]) for match in numbered], int(numbered[0]["count"])
    missing = next((number for number in range(count) if number not in numbers), None)
    if missing is not None:
        split, number, of_count = numbered[0].group("split", "number", "count")
        name = f"{split}-{missing:0{len(number)}}-of-{of_count}{paths[0].suffix}"
        raise DataError(
            f"{paths[0].parent / name}: no such file, expected {count} files as {paths[0]} says; download it"
        )
    for place, (path, number) in enumerate(zip(paths, numbers, strict=True)):
        if number >= count or number in numbers[:place]:
            raise DataError(
                f"{path}: lies beside {paths[0]}, expected numbers 0 to {count - 1}, each once; remove what "
                "does not belong there"
            )


def check_classes(files: Mapping[str, Sequence[Path | str]], label: str, datasets: Any) -> None:
    """Raise `DataError` for a file, or an address of one, that names other classes.

    The library takes the classes of the first, and the labels of all as they are. Only the end of each file
    is read, of several at a time: they may lie on another machine.
    """
    first: tuple[Path | str, list[str]] | None = None
    paths = [path for split in ("train", "test") for path in files[split]]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        schemas = list(pool.map(_schema, paths))
    for path, schema in zip(paths, schemas, strict=True):
        features = datasets.Features.from_arrow_schema(schema)
        names = getattr(features[label], "names", None)
        if names is None:  # plain numbers
            continue
        first = first or (path, names)
        if names == first[1]:
            continue
        pairs = itertools.zip_longest(names, first[1], fillvalue="nothing")
        number, (here, there) = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
        raise DataError(
            f"{path}: class {number} of column {label} is {here}, expected {there} as in {first[0]}; give "
            "all files the same classes in the same order"
        )


def _schema(path: Path | str) -> Any:
    """The columns of a file, or of one at an address such as "hf://datasets/owner/name@commit/FILE"."""
    parquet = importlib.import_module("pyarrow.parquet")
    if isinstance(path, Path):
        return parquet.read_schema(path)
    with importlib.import_module("fsspec").open(path, mode="rb") as file:
        return parquet.read_schema(file)


def place(files: list[Path], row: int) -> str:
    """The file and the row in it, for a row of the split that `files` make up."""
    parquet = importlib.import_module("pyarrow.parquet")
    for path in files:
        count = parquet.read_metadata(path).num_rows
        if row < count:
            return f"{path}: row {row}"
        row -= count
    raise IndexError(row)


@contextlib.contextmanager
def naming_the_bad_file(files: dict[str, list[Path]]) -> Iterator[None]:
    """Name the file that is to blame where reading fails: the library's own error does not."""
    try:
        yield
    except DataError:
        raise
    except Exception:
        for paths in files.values():
            if not sum(_count_rows(path) for path in paths):
                raise DataError(
                    f"{paths[0]}: holds no images, expected at least one; download it again"
                ) from None
        raise


def _count_rows(path: Path) -> int:
    """Read a whole parquet file."""
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return int(parquet.read_table(path).num_rows)
    except (OSError, ValueError) as error:  # every error of pyarrow is one of them
        raise DataError(
            f"{path}: is no complete parquet file ({in_one_line(error)}); download it again"
        ) from error
