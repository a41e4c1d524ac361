"""Data of the training tests."""

from dataclasses import replace

import pytest
import torch

from helpers.small_models import blobs
from robustlens.data import Split, Splits, from_tensors


@pytest.fixture(scope="session")
def splits() -> Splits:
    return from_tensors(*blobs(), *blobs(60, seed=1))


@pytest.fixture(scope="session")
def partly_labelled() -> Splits:
    full = from_tensors(*blobs(240), *blobs(60, seed=1))
    pool = full.train.take(100, seed=3)
    rest = torch.tensor([row for row in range(len(full.train)) if full.train.index[row] not in pool.index])
    train = Split(full.train.images[rest], full.train.labels[rest], full.train.index[rest])
    return replace(full, train=train, unlabeled=pool)
