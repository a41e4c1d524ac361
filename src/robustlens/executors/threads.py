"""Threads of the runs of a study on one machine's cores.

Another number of threads may round otherwise, so a run keeps its own however often its study is stopped. The
numbers are therefore those of a schedule that is worked out before the first run, from the estimated lengths
of all of them, and not what happens to be free when a run begins.
"""

from collections.abc import Sequence

_GAIN = 0.75  # k threads do k ** _GAIN times the work of one: two do 1.7 times, as measured here


def threads_of(lengths: Sequence[float], cores: int, workers: int) -> list[int]:
    """Threads of each run, in the order in which the runs begin.

    As many runs as there are workers share the cores. Where fewer are left, each may have a larger share, if
    it ends sooner so although it begins later, when enough cores are free.

    Args:
        lengths: of the runs with one thread, in their order.
        cores: of the machine.
        workers: runs at a time.

    >>> threads_of([3, 3, 3], cores=2, workers=2)
    [1, 1, 2]
    >>> threads_of([9, 1, 1], cores=2, workers=2)  # the third is over before the first
    [1, 1, 1]
    """
    together = max(1, min(workers, len(lengths)))
    share = max(1, cores // together)
    free = [0.0] * max(cores, together)  # when each core is free; more than there are for more workers
    chosen = []
    for place, length in enumerate(lengths):
        left = len(lengths) - place
        free.sort()
        options = {share: free[share - 1]}
        options |= {k: free[k * left - 1] for k in range(share + 1, len(free) // left + 1)}
        ends = {k: begin + length / k**_GAIN for k, begin in options.items()}
        threads = min(ends, key=lambda k: (ends[k], -k))
        chosen.append(threads)
        free[:threads] = [ends[threads]] * threads
    return chosen
