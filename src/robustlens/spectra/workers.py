"""Many small decompositions at once: threads that use one BLAS thread each."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from robustlens.errors import ConfigError


@contextlib.contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Pool of as many threads as torch has.

    LAPACK with several threads gains little on small matrices, and loses a hundredfold where other
    processes want the cores. A thread's setting is also that of every thread that starts later, so it is
    set again when the pool has ended.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def decomposition(method: str) -> Callable[[Tensor], Tensor]:
    """From matrices (..., m, n) to their singular values (..., min(m, n)), in any order.

    Raises:
        ConfigError: unknown method.
    """
    if method not in ("svd", "gram"):
        raise ConfigError(f"spectrum.method: found {method!r}, expected 'svd' or 'gram'")
    return torch.linalg.svdvals if method == "svd" else gram_values


def gram_values(matrices: Tensor) -> Tensor:
    """Square roots of the eigenvalues of A A^H or A^H A, whichever is smaller.

    Rounding moves an eigenvalue by eps s_max^2, and so a singular value s by eps s_max^2 / (2 s): large ones
    lose nothing, and those below sqrt(eps) s_max (1e-8 s_max in float64, 3e-4 s_max in float32) are noise.
    """
    rows, columns = matrices.shape[-2:]
    gram = matrices @ matrices.mH if rows <= columns else matrices.mH @ matrices
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()


def descending(values: Float[Tensor, " n"]) -> np.ndarray:
    """Values in the order of all spectra, from large to small, float64."""
    return values.double().sort(descending=True).values.numpy()
