"""Time that training takes, over several sittings."""

import time


class Stopwatch:
    """Wall-clock and processor seconds, on top of those of an earlier sitting."""

    def __init__(self, seconds: float, cpu_seconds: float) -> None:
        self._began = time.perf_counter() - seconds, time.process_time() - cpu_seconds

    def read(self) -> tuple[float, float]:
        """Both so far; processor seconds are those of all threads of this process."""
        wall, cpu = self._began
        return time.perf_counter() - wall, time.process_time() - cpu
