"""Studies in which nothing has an effect: the small version of `bench/null_claims.py`."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

PATH = Path(__file__).resolve().parents[2] / "bench" / "null_claims.py"


@pytest.fixture(scope="module")
def null_claims() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("null_claims", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["null_claims"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["null_claims"]


@pytest.mark.slow
def test_of_studies_without_any_effect_one_in_twenty_may_support_a_claim() -> None:
    # In a process of its own: here every call is type-checked.
    options = ["--studies", "40", "--images", "100", "--seeds", "3", "--noise", "3"]
    done = subprocess.run([sys.executable, str(PATH), *options], capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["rows"]
    assert row["claims"] >= 20
    assert row["studies_with_any_one_by_one"] > 0.2
    assert row["studies_with_any_supported"] * row["studies"] <= stats.binom.ppf(0.99, row["studies"], 0.05)


def test_one_seed_decides_nothing(null_claims: ModuleType) -> None:
    described = [claim for number in range(2) for claim in null_claims.judged(1, 3.0, 100, number)]
    assert len(described) >= 40
    assert {claim.verdict for claim in described} <= {"as claimed", "opposite", "unclear", "untested"}
    assert "as claimed" in {claim.verdict for claim in described}


def test_two_seeds_decide_nothing_either(null_claims: ModuleType) -> None:
    assert {claim.scope for claim in null_claims.judged(2, 1.0, 100, 0)} <= {"described", None}
