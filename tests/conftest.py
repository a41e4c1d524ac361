"""Every shape in a signature of the package is checked while the tests run (jaxtyping with beartype)."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The networks here are too small for two threads, which on a busy machine mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An int is a float here, as for every type checker (PEP 484).
_hook = install_import_hook(
    "robustlens", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _same_random_state_before_every_test() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_data_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTLENS_DATA", raising=False)
    monkeypatch.delenv("ROBUSTLENS_DEBUG", raising=False)


@pytest.fixture
def real_cifar10() -> Path:
    """The real CIFAR-10 files, in the hub's layout; absent from a user's clone."""
    folder = SHARED_DATA / "cifar10"
    if not folder.is_dir():
        pytest.skip("the real CIFAR-10 files are not beside this checkout (../shared/data/cifar10)")
    return folder
