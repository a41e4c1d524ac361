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

def smaller(): return lambda x, generator=None: x[..., 1:, :]
def fewer(): return lambda x, generator=None: x[1:]
def double(): return lambda x, generator=None: x.double()
def bytes(): return lambda x, generator=None: (255 * x).byte()
def elsewhere(): return lambda x, generator=None: x.to("meta")
def none(): return lambda x, generator=None: None
def array(): return lambda x, generator=None: x.numpy()
def alone(): return lambda x: x
def exits(): return lambda x, generator=None: exit(0)
def without_memory(): return lambda x, generator=None: torch.empty(1 << 60)
def normalised(): return lambda x, generator=None: (x - 0.5) / 0.25
def brighter(): return lambda x, generator=None: 0.5 * x + 1
def undefined(): return lambda x, generator=None: 0 * x / 0
def rounded(): return lambda x, generator=None: x * (1 + 1e-6)

def window():
    from robustlens.data.resized_crop import RandomResizedCrop
    return RandomResizedCrop(scale=(0.5, 1.0))
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


AS_GIVEN = r"expected float32 of shape \(2, 1, 2, 2\) on cpu; mend it"
BAD_AUGMENTATIONS = {
    "smaller": rf"returned float32 of shape \(2, 1, 1, 2\) on cpu, {AS_GIVEN}",
    "fewer": rf"returned float32 of shape \(1, 1, 2, 2\) on cpu, {AS_GIVEN}",
    "double": rf"returned float64 of shape \(2, 1, 2, 2\) on cpu, {AS_GIVEN}",
    "bytes": "returned uint8 of shape",
    "elsewhere": r"returned float32 of shape \(2, 1, 2, 2\) on meta, expected",
    "none": rf"returned NoneType, {AS_GIVEN}",
    "array": rf"returned ndarray, {AS_GIVEN}",
    "alone": r"failed \(TypeError: .*takes 1 positional argument but 2 were given\); mend it: it is called with images "
    "in .0, 1. and a generator",
    "exits": r"failed \(SystemExit: 0\)",
}


@pytest.mark.parametrize("name", BAD_AUGMENTATIONS)
def test_what_an_augmentation_may_get_wrong_is_one_line(name: str) -> None:
    own = augment.get(f"my_data:{name}")
    line = rf"^data\.augment 'my_data:{name}': {BAD_AUGMENTATIONS[name]}"
    refused(line, lambda: own(torch.rand(2, 1, 2, 2), torch.Generator()), ConfigError)


def test_an_augmentation_that_asks_for_too_much_memory_says_so() -> None:
    with pytest.raises(RuntimeError, match="memory"):
        augment.get("my_data:without_memory")(torch.rand(2, 1, 2, 2))


def test_a_random_resized_crop_with_options_of_the_users_has_the_size_of_the_crop() -> None:
    own = augment.get("my_data:window", 3)
    assert (own.takes_whole_images, own.by_example) == (True, True)
    assert own(torch.rand(2, 1, 5, 5), torch.Generator(), rows=torch.arange(2)).shape == (2, 1, 3, 3)
    assert not augment.get("my_data:Darker").takes_whole_images


@pytest.mark.parametrize(
    ("name", "values"), [("normalised", r"-2\.\.2"), ("brighter", r"1\.\.1\.5"), ("undefined", r"nan\.\.nan")]
)
def test_images_that_leave_the_box_are_no_augmented_ones(name: str, values: str) -> None:
    x = torch.linspace(0, 1, 8).view(2, 1, 2, 2)
    own = augment.get(f"my_data:{name}")
    line = (
        rf"^data\.augment 'my_data:{name}': returned values {values}, expected pixels in \[0, 1\]; clamp them"
    )
    refused(line, lambda: augment.check_range(own, own(x)), ConfigError)
    for fine in (augment.get("my_data:rounded"), augment.get("none")):
        augment.check_range(fine, fine(x))
