"""Names of `robustlens.explain`: files of the package share theirs with functions, and the functions win."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import robustlens as rl

FILES = [found.name for found in pkgutil.walk_packages(rl.explain.__path__, "robustlens.explain.")]


def test_public_names_are_no_files() -> None:
    assert {"robustlens.explain.spectrum", "robustlens.explain.bound.covering"} <= set(FILES)
    for name in FILES:
        importlib.import_module(name)
    assert not [name for name in rl.explain.__all__ if isinstance(getattr(rl.explain, name), ModuleType)]


@pytest.mark.slow
def test_a_file_that_is_imported_first_does_not_take_the_name_of_its_function() -> None:
    code = (
        "import robustlens.explain.bound.covering, robustlens.explain.spectrum, robustlens as rl;"
        "print([name for name in rl.explain.__all__ if type(getattr(rl.explain, name)).__name__ == 'module'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_functions_of_the_readme_are_called_after_their_files_are_imported() -> None:
    import torch

    import robustlens.explain.margins
    import robustlens.explain.spectrum  # noqa: F401 - what is called below is the function

    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=2, hidden=4)
    x, y = torch.rand(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])
    assert "conv1" in rl.explain.spectrum(model, input_shape=(1, 12, 12))
    assert rl.explain.margins(model, x, y)["correct"].shape == (4,)
    lines = rl.explain.landscape(model, x, y, rl.ThreatModel("Linf", 0.1), alphas=(0.5,), steps=1)
    assert lines["loss"].shape == (2, 1, 4)
