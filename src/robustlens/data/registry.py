"""Data sets by name, and readers of other sources by prefix: everything that `load` understands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from robustlens.data import arrays, embedded, folder, hub, packed
from robustlens.data.paths import path_of
from robustlens.data.splits import Sources
from robustlens.errors import DataError
from robustlens.factories import is_factory
from robustlens.registry import Registry, parameters_of


@runtime_checkable
class Dataset(Protocol):
    """A data set with a name."""

    @property
    def augmentation(self) -> str:
        """The augmentation that the field trains it with (`robustlens.data.augment`)."""

    def load(self, name: str, data_dir: Path | None) -> Sources:
        """Its splits, from the user's folder where one is given."""


Reader = Callable[[str, Path | None], Sources]
"""(text after the colon, data_dir) -> Sources."""

READERS: Registry[Reader] = Registry(
    "data.name",
    {
        "hf:owner/name": hub.load_any,
        "folder:PATH": lambda path, _: folder.load(path_of(path)),
        "idx:PATH": lambda path, _: arrays.load_idx(path_of(path)),
        "npz:PATH": lambda path, _: arrays.load_npz(path_of(path)),
        "packed:PATH": lambda path, _: packed.load(path),
    },
)
"""Readers by the form of the names that they read: a prefix before a colon."""

DATASETS: Registry[Dataset] = Registry(
    "data.name",
    {"fashion-mnist-10k": embedded.EmbeddedDataset(), **hub.HUB_DATASETS},
    factories=True,
    other_names=READERS,
)
"""Data sets by name. "package.module:factory" is a function of yours (see `read`)."""


def names() -> tuple[str, ...]:
    """Everything that `load` understands, as it is written."""
    return (*DATASETS, *READERS, "package.module:factory")


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that `read` does not know; no file is looked at, and no code run."""
    if _reader_of(name) is None and not is_factory(name):
        DATASETS.find(name)


def runs_code(name: str) -> bool:
    """Whether the name of a data set is a function of the user's."""
    return _reader_of(name) is None and is_factory(name)


def read(name: str, data_dir: Path | None) -> Sources:
    """The source of a name.

    A factory is called with `data_dir`, if it takes that, and returns `Sources`, or the four arrays of
    `from_tensors`: (x_train, y_train, x_test, y_test).

    Raises:
        ConfigError: an unknown name. DataError: files or arrays that are missing, damaged or of another kind.
    """
    reader = _reader_of(name)
    if reader is not None:
        return reader(name.partition(":")[2], data_dir)
    dataset = DATASETS.find(name)
    if name in DATASETS:
        return dataset.load(name, data_dir)
    return _sources_from(name, dataset, data_dir)


def _reader_of(name: str) -> Reader | None:
    prefix, colon, rest = name.partition(":")
    forms = (form for form in READERS if form.startswith(f"{prefix}:"))
    form = next(forms, None) if colon and rest else None
    return None if form is None else READERS[form]


def _sources_from(name: str, factory: Any, data_dir: Path | None) -> Sources:
    """The data that a function of the user's returns."""
    options = {"data_dir": data_dir} if "data_dir" in parameters_of(factory) else {}
    made = DATASETS.call(name, factory, **options)
    if isinstance(made, Sources):
        return made
    if not isinstance(made, tuple | list) or len(made) != 4:
        raise DataError(
            f"data.name {name!r}: returned {type(made).__name__}, expected data.Sources or four arrays "
            "(x_train, y_train, x_test, y_test)"
        )
    return arrays.sources_of(name, *made)
