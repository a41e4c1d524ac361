"""Data of the tests of trackers."""

import pytest

from helpers.small_models import blobs
from robustlens.data import Splits, from_tensors


@pytest.fixture(scope="session")
def splits() -> Splits:
    return from_tensors(*blobs(), *blobs(60, seed=1))
