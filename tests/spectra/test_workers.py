"""The pool of threads that decompose matrices."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from robustlens.spectra import spectrum
from robustlens.spectra.workers import workers


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_later_thread() -> int:
    """How many threads a thread that starts now computes with."""
    counts: list[int] = []
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    return counts[0]


@pytest.mark.parametrize("operator", ["circular", "zero"])
def test_threads_that_start_after_a_spectrum_compute_as_before_it(operator: str) -> None:
    spectrum(nn.Sequential(nn.Conv2d(2, 2, 3)), (2, 6, 6), operator=operator)
    assert (torch.get_num_threads(), threads_of_a_later_thread()) == (3, 3)


def test_the_pool_has_a_thread_for_each_of_torch_and_one_blas_thread_in_each() -> None:
    barrier = threading.Barrier(3, timeout=30)

    def count() -> int:
        barrier.wait()
        return torch.get_num_threads()

    with workers() as pool:
        assert [future.result() for future in [pool.submit(count) for _ in range(3)]] == [1, 1, 1]
    with pytest.raises(ZeroDivisionError), workers() as pool:
        pool.submit(lambda: 1 / 0).result()
    assert (torch.get_num_threads(), threads_of_a_later_thread()) == (3, 3)
