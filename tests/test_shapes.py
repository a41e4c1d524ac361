"""The checks of types and shapes under which all other tests run."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped, UInt8

from helpers import array_hints
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


def test_the_process_that_starts_the_workers_does_not_import_torch_for_the_checks():
    program = "import sys; import helpers.shapes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, check=True)


def scaled(by: float):
    @checked
    def inner(x: Float[torch.Tensor, "n c"], y: Float[torch.Tensor, " c"]) -> Float[torch.Tensor, "n c"]:
        return (x * y).sum() if by == 0 else by * x * y

    return inner


def test_a_function_inside_another_is_checked_whenever_it_is_made():
    x, y = torch.ones(3, 2), torch.ones(2)
    for by in (1.0, 2.0, 3.0):
        assert scaled(by)(x, y).sum() == 6 * by, "each has its own closure"
        with pytest.raises(TypeError, match="violates type hint"):
            scaled(by)(x, torch.ones(3))
    with pytest.raises(TypeError, match="violates type hint"):
        scaled(0)(x, y)


def test_names_have_sizes_of_their_own_in_each_thread_and_in_a_call_within_a_call():
    @checked
    def outer(x: Float[torch.Tensor, "n c"]) -> Float[torch.Tensor, "n c"]:
        assert gathered(torch.rand(7, 5), torch.zeros(7, dtype=torch.int64)).shape == (7,)
        other = threading.Thread(
            target=lambda: wrong.append(array_hints.fits(Float[torch.Tensor, " n"], torch.ones(9)))
        )
        other.start()
        other.join()
        return x

    wrong: list[bool] = []
    assert outer(torch.ones(3, 2)).shape == (3, 2)
    assert wrong == [True]


HINTS = [
    *(
        Float[torch.Tensor, dims]
        for dims in ("", "n", "n n", "n _ 2", "n ...", "... n", "n *rest 2", "*all", "2 3")
    ),
    *(kind[torch.Tensor, "n ..."] for kind in (Float64, Int64, Bool, UInt8, Shaped)),
    *(kind[np.ndarray, "n d"] for kind in (Float, Float64, Int64, Bool, UInt8, Shaped)),
]
TYPES = ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"]
VALUES = [
    make(shape, dtype=getattr(room, name))
    for shape in ((), (1,), (2,), (3, 3), (3, 2), (2, 3), (2, 4, 2), (2, 1, 2, 2))
    for make, room in ((torch.zeros, torch), (np.zeros, np))
    for name in TYPES
] + [torch.zeros(2, dtype=torch.bfloat16), np.zeros((2, 2), dtype=">f8"), np.array([["a"]]), [1.0], None, 2.0]


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: f"{hint.__name__}")
def test_an_array_fits_where_jaxtyping_says_so(hint):
    theirs = [array_hints.fits_for_jaxtyping(hint, value) for value in VALUES]
    assert [array_hints.fits(hint, value) for value in VALUES] == theirs
    assert [array_hints.misfit(hint, value) == "" for value in VALUES] == theirs
    assert 0 < sum(theirs) < len(VALUES)
