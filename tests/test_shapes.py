"""The checks of types and shapes under which all other tests run."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int64

from helpers.shapes import checked
from robustlens import losses
from robustlens.threat import ThreatModel


@checked
def gathered(logits: Float[torch.Tensor, "n c"], y: Int64[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
    return logits[0] if len(y) == 1 else logits.gather(1, y[:, None])[:, 0]


@checked
@dataclass(frozen=True)
class Pair:
    first: Float[np.ndarray, " n"]
    second: Float[np.ndarray, " n"]
    weight: float = 1.0


def test_arguments_and_results_have_the_sizes_of_their_names():
    assert gathered(torch.rand(3, 5), torch.zeros(3, dtype=torch.int64)).shape == (3,)
    assert gathered(torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)).shape == (4,), (
        "n is free in each call"
    )
    for logits, y in (
        (torch.rand(3, 5), torch.zeros(2, dtype=torch.int64)),
        (torch.rand(3, 5, 1), torch.zeros(3, dtype=torch.int64)),
        (torch.rand(3, 5), torch.zeros(3)),
        (torch.rand(1, 5), torch.zeros(1, dtype=torch.int64)),  # the result has 5 entries
    ):
        with pytest.raises(TypeError, match="violates type hint"):
            gathered(logits, y)


def test_fields_of_a_dataclass_have_the_sizes_of_their_names():
    assert Pair(np.zeros(3), np.zeros(3), 1).weight == 1, "an int is a float"
    for wrong in ((np.zeros(3), np.zeros(2)), (np.zeros(3), np.zeros(3), "1"), (np.zeros(3), np.arange(3))):
        with pytest.raises(TypeError, match="violates type hint"):
            Pair(*wrong)


def test_the_package_is_checked():
    with pytest.raises(TypeError, match="violates type hint"):
        losses.cross_entropy(torch.rand(3, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="violates type hint"):
        ThreatModel(eps="0.1")
