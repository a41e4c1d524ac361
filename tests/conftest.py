"""Every shape in a signature of the package is checked while the tests run (jaxtyping with beartype)."""

import gc
import os
import signal
from pathlib import Path

import pytest

from helpers.shapes import check_package

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The networks here are too small for two threads, which on a busy machine mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
check_package("robustlens")

# A signal that is ignored (`nohup make test &`) is ignored by every program that a test starts too. A handler
# that does nothing keeps it from this process alone.
for _name in ("SIGINT", "SIGHUP"):
    if (_number := getattr(signal, _name, None)) and signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that last longest: the last of them would keep a single core busy at the end."""

    def lasts(item: pytest.Item) -> float:
        mark = item.get_closest_marker("lasts")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=lasts, reverse=True)


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make alone, not among the modules and tests that live to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


@pytest.fixture(autouse=True)
def _same_random_state_before_every_test() -> None:
    import torch

    from robustlens import noise

    noise.seed_torch(0, torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))


@pytest.fixture(scope="module", autouse=True)
def _workers_are_forked_anew_in_each_module() -> None:
    """The process that forks workers keeps the standard error of the test that started it."""
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


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
