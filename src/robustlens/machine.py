"""The machine that work runs on: what it is, and how its memory is kept.

Freed memory stays in the process, so that a CPU training step does not fault its pages in again: glibc hands large blocks back to the system when they are freed; a training step frees and takes the same
blocks over and over and spends up to a third of its time in page faults. Raising two thresholds stops that.
"""

import ctypes
import platform
import sys
from typing import Any

from robustlens.version import __version__

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


def environment(device: Any = None) -> dict[str, str]:
    """Versions, device and threads that a result was computed with; `device` is a `torch.device`."""
    import torch  # rooms that only keep memory do not pay for it

    on_cuda = device is not None and device.type == "cuda"
    return {
        "robustlens": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if on_cuda else f"cpu ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
    }
