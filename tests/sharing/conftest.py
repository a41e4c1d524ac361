"""Runs to share, and a stand-in of the Hub."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.pretended_hub import PretendedHub, pretended_hub
from helpers.shared_runs import evaluated, trained


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluated(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="session")
def unevaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("shared") / "other", seed=1)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PretendedHub]:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    # A download that breaks off is tried again after a second, five times.
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
    with pretended_hub(monkeypatch) as made:
        yield made
