"""Keep freed memory in the process, so that a CPU training step does not fault its pages in again.

glibc hands large blocks back to the system when they are freed; a training step frees and takes the same
blocks over and over and spends up to a third of its time in page faults. Raising two thresholds stops that.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30


def keep_memory() -> bool:
    """Ask glibc to keep freed blocks up to 1 GiB; True if it will. Elsewhere nothing happens.

    It changes the whole process, so only the command line and its workers do it, never an import.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGE))
