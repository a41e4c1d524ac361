"""Threads of runs on one machine: a schedule that is known before the first run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlens.executors import LocalProcesses
from robustlens.executors.threads import threads_of


def makespan(lengths, threads, cores):
    """End of the last run, if each begins in its turn as soon as its cores are free."""
    free = [0.0] * cores
    for length, k in zip(lengths, threads, strict=True):
        free.sort()
        free[:k] = [free[k - 1] + length / k**0.75] * k
    return max(free, default=0.0)


@pytest.mark.parametrize(
    ("lengths", "cores", "workers", "expected"),
    [
        ([], 4, 4, []),
        ([1], 4, 4, [4]),
        ([1, 1], 4, 4, [2, 2]),
        ([1, 1, 1], 16, 16, [5, 5, 6]),
        ([1] * 16, 16, 16, [1] * 16),
        ([1] * 17, 16, 16, [*[1] * 16, 16]),
        ([1] * 18, 16, 16, [*[1] * 16, 8, 8]),
        ([3.1, 3, 3], 2, 2, [1, 1, 2]),
        ([9, 1, 1], 2, 2, [1, 1, 1]),
        ([1, 1, 1], 2, 1, [2, 2, 2]),
        ([1, 1, 1], 2, 8, [1, 1, 1]),
    ],
)
def test_the_last_runs_share_what_is_left(lengths, cores, workers, expected):
    assert threads_of(lengths, cores, workers) == expected


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=40).map(lambda some: sorted(some, reverse=True)),
    st.integers(1, 32),
)
def test_no_schedule_is_longer_than_that_of_equal_shares(lengths, cores):
    threads = threads_of(lengths, cores, cores)
    share = max(1, cores // min(cores, len(lengths)))
    assert min(threads) >= share
    assert max(threads) <= cores
    equal = makespan(lengths, [share] * len(lengths), cores)
    assert makespan(lengths, threads, cores) <= equal * (1 + 1e-9)


def test_devices_and_given_numbers_make_equal_shares(monkeypatch):
    executor = LocalProcesses(devices=("0", "1"))
    executor.cores = 8
    assert list(executor.share_cores([3, 2, 1])) == [4, 4, 4]
    assert list(executor.share_cores([3])) == [8]
    assert list(LocalProcesses(3, (), threads=5).share_cores([3, 2])) == [5, 5]
