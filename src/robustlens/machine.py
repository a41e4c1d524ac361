"""The machine that work runs on: its devices, how it multiplies float32 numbers, and how its memory is kept.

Freed memory stays in the process, so that a CPU training step does not fault its pages in again: glibc hands
large blocks back to the system when they are freed; a training step frees and takes the same blocks over and
over and spends up to a third of its time in page faults. Raising two thresholds stops that.
"""

import contextlib
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustlens.errors import ConfigError, ResourceError
from robustlens.version import __version__

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30
_ADAPTED = 32 << 20  # glibc raises its threshold to the blocks that it sees, up to this

_lock = threading.Lock()
_keepers = 0  # callers that want freed memory kept


def keep_memory() -> bool:
    """Ask glibc to keep freed blocks up to 1 GiB, from now on; True if it will. Elsewhere nothing happens.

    It changes the whole process, so only the command line and its workers do it, never an import.
    """
    global _keepers
    with _lock:
        _keepers += 1
        return _set_thresholds(_LARGE, _LARGE)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """As `keep_memory` inside, for a process that is not ours.

    At the end free memory goes back to the system, and so do freed blocks above 32 MiB from then on. That is
    where glibc's own rule ends up that adapts to the blocks it sees; once set, thresholds adapt no more.
    """
    global _keepers
    keep_memory()
    try:
        yield
    finally:
        with _lock:
            _keepers -= 1
            if _keepers == 0 and _set_thresholds(_ADAPTED, 2 * _ADAPTED):
                ctypes.CDLL(None).malloc_trim(0)


def _set_thresholds(mmap: int, trim: int) -> bool:
    """Bytes from which glibc takes a block from the system, and gives free memory back; True if it will."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))


def memory() -> int:
    """Bytes of memory that this process may use, as far as the system tells; 8 GiB where it does not."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # of a container
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits, default=8 << 30)


def device(name: str = "auto") -> "torch.device":
    """The device of a name: "cpu", "cuda", "cuda:1", or "auto", the first CUDA device or else the CPU.

    Raises:
        ConfigError: no such name.
        ResourceError: torch sees no such device on this machine.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, colon, number = name.partition(":")
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if name == "auto":
        name = kind = "cuda"
    if kind != "cuda" or bool(colon) != number.isdecimal():
        raise ConfigError(f"device: found {name!r}, expected auto, cpu, cuda or one of several as cuda:1")
    if int(number or 0) >= count:
        seen = ", ".join(f"cuda:{place}" for place in range(count)) or "none"
        raise ResourceError(f"device: found {name!r}, but torch sees {seen} here; give --device auto or cpu")
    _fix_workspace()
    return torch.device("cuda", int(number or 0))


def devices(name: str = "auto") -> tuple[str, ...]:
    """CUDA devices that runs share, as `CUDA_VISIBLE_DEVICES` calls them; empty where they run on the CPU.

    "auto" and "cuda" are all that there are. Raises as `device`.
    """
    import torch

    chosen = device(name)
    if chosen.type == "cpu":
        return ()
    count = torch.cuda.device_count()
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    names = visible if len(visible) >= count else [str(place) for place in range(count)]
    return tuple(names[:count]) if name in ("auto", "cuda") else (names[chosen.index],)


@contextlib.contextmanager
def float32_products(kind: Literal["ieee", "tf32"] = "ieee") -> Iterator[None]:
    """Multiply float32 matrices and convolve in IEEE float32, or in TF32 where a GPU has it.

    TF32 keeps 10 bits of each factor's fraction, so that logits differ in the third digit; torch convolves
    in it unless it is told otherwise. The settings of the caller come back at the end.
    """
    import torch

    backends, precision = torch.backends, "highest" if kind == "ieee" else "high"
    saved = [(switch, switch.fp32_precision) for switch in _switches()]
    # The older settings say the same by other names; they cannot be read where the newer ones disagree.
    products, convolutions = _read(torch.get_float32_matmul_precision), _read(_convolves_in_tf32)
    try:
        torch.set_float32_matmul_precision(precision)
        backends.cudnn.allow_tf32 = kind == "tf32"
        for switch, _ in saved:
            switch.fp32_precision = kind
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        for switch, before in saved:
            if switch.fp32_precision != before:
                switch.fp32_precision = before


@contextlib.contextmanager
def repeatable(on: "torch.device", *, fast: bool = False) -> Iterator[None]:
    """Inside, the same work gives the same bits on a CUDA device, as it does on the CPU anyway.

    cuDNN takes deterministic algorithms, and so do torch's own operations; one that has none warns, once. Of
    attention's kernels only the plain one stays: the others are deterministic where those without such an
    algorithm raise, and only there. Memory that nothing was written to is not filled, which changes no bit.
    With `fast`, cuDNN takes whatever was quickest in a trial on this device, and sums may be added up in
    another order each time. The settings of the caller come back at the end.

    Args:
        on: where the work is done; on the CPU nothing is set.
        fast: give up equal bits for speed.
    """
    import torch

    if on.type != "cuda":
        yield
        return
    _fix_workspace()
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    filling: Any = torch.utils.deterministic  # whose class has the setting
    algorithms = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    attention = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    saved = cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(not fast, warn_only=True)
        _enable_attention(*(was_on and fast for was_on in attention))
        cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = not fast, fast, False
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        _enable_attention(*attention)
        cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = saved


def _fix_workspace() -> None:
    """Let cuBLAS give the same bits again: it reads this at its first product in the process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _enable_attention(flash: bool, memory_efficient: bool, of_cudnn: bool) -> None:
    from torch.backends import cuda

    cuda.enable_flash_sdp(flash)
    cuda.enable_mem_efficient_sdp(memory_efficient)
    cuda.enable_cudnn_sdp(of_cudnn)


def _switches() -> list[Any]:
    """The newer settings, one for each kind of operation; none before torch 2.9."""
    from torch import backends

    kinds = (backends.cuda.matmul, *(getattr(backends.cudnn, kind, None) for kind in ("conv", "rnn")))
    kinds += tuple(getattr(backends.mkldnn, kind, None) for kind in ("matmul", "conv", "rnn"))
    return [kind for kind in kinds if hasattr(kind, "fp32_precision")]


def _convolves_in_tf32() -> bool:
    from torch import backends

    return bool(backends.cudnn.allow_tf32)


def _read(setting: Any) -> Any:
    try:
        return setting()
    except RuntimeError:
        return None


def environment(on: "torch.device | None" = None) -> dict[str, str]:
    """Versions, device, threads and kind of products of a result that is computed on a device."""
    import torch  # rooms that only keep memory do not pay for it

    on_cuda = on is not None and on.type == "cuda"
    return {
        "robustlens": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(on) if on_cuda else f"cpu ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
        "tf32": "allowed" if _read(_convolves_in_tf32) else "off",
    }
