"""Data sets by the name of a function of the user's."""

from pathlib import Path

import pytest
import torch

from helpers.data_files import refused
from robustlens import data
from robustlens.config import DataSpec
from robustlens.data import augment
from robustlens.errors import ConfigError

CODE = """
from pathlib import Path
import numpy as np
from robustlens.data import Source, Sources
import torch

def arrays():
    x, y = np.arange(8 * 4, dtype=np.uint8).reshape(8, 2, 2), np.arange(8) % 2
    return x, y, x[:4], y[:4]

def sources(data_dir: Path | None = None):
    labels = torch.arange(6) % 3
    images = torch.full((6, 1, 2, 2), len(str(data_dir)), dtype=torch.uint8)
    source = Source(labels, images.__getitem__, "mine")
    return Sources(source, source, ("a", "b", "c"))

def nothing():
    return None

def broken():
    raise KeyError("x")

class Darker:
    def __call__(self, x, generator=None):
        return x / 2
"""


@pytest.fixture(autouse=True)
def my_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_data", raising=False)


def test_a_function_gives_four_arrays_or_sources(tmp_path: Path) -> None:
    made = data.load("my_data:arrays", validation=0)
    assert (made.name, made.shape, made.classes) == ("my_data:arrays", (1, 2, 2), ("0", "1"))
    assert torch.equal(made.test.images, made.train.images[:4])
    made = data.load("my_data:sources", data_dir=tmp_path, validation=0)
    assert made.classes == ("a", "b", "c")
    assert int(made.train.images[0, 0, 0, 0]) == len(str(tmp_path))


def test_what_a_function_may_get_wrong_is_one_line() -> None:
    refused("returned NoneType, expected data.Sources or four arrays", lambda: data.load("my_data:nothing"))
    refused(r"'my_data:broken': failed \(KeyError: 'x'\)", lambda: data.load("my_data:broken"), ConfigError)
    refused("'my_data' has no 'absent'", lambda: data.load("my_data:absent"), ConfigError)


def test_a_prefix_is_no_module(tmp_path: Path) -> None:
    refused("no folder train in it", lambda: data.load("folder:my_data"))


def test_a_recipe_of_a_run_folder_runs_no_function_unless_it_is_trusted() -> None:
    spec = DataSpec(name="my_data:arrays", validation=0)
    refused("'my_data:arrays' is code from outside the run.*--trust-code", lambda: data.of_spec(spec))
    assert len(data.of_spec(spec, trust_code=True).train) == 8


def test_an_augmentation_may_be_a_function_too() -> None:
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(augment.get("my_data:Darker")(x), x / 2)
    refused("gives a tuple, expected a Augment", lambda: augment.get("my_data:arrays"), ConfigError)
