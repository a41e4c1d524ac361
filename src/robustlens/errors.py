"""Errors a user can act on: one line each, and the exit code the command line ends with.

A message names what failed, where (field or file), what was found, what was expected, and the fix.
Anything that is not a `RobustlensError` is a bug of ours and keeps its traceback.
"""


class RobustlensError(Exception):
    """Base of every expected failure; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(RobustlensError):
    """A recipe, study file, option or argument is wrong (exit 2)."""

    exit_code = 2


class DataError(RobustlensError):
    """Data cannot be read or is not what it claims to be (exit 3)."""

    exit_code = 3


class ModelError(RobustlensError):
    """A model cannot be loaded, or does not return logits of shape (n, classes) (exit 3)."""

    exit_code = 3


class NumericsError(RobustlensError):
    """A loss, weight or logit became NaN or infinite, or an evaluation is not valid (exit 4)."""

    exit_code = 4


class ResourceError(RobustlensError):
    """Disk or memory ran out (exit 5)."""

    exit_code = 5


class LockedError(RobustlensError):
    """Another process is writing to this run folder (exit 6)."""

    exit_code = 6


class StateError(RobustlensError):
    """Saved state is corrupt or belongs to another recipe (exit 7)."""

    exit_code = 7


class StoppedError(RobustlensError):
    """A signal stopped the work; the same command goes on where it stopped (exit 75)."""

    exit_code = 75


def error_of(exit_code: int, text: str) -> RobustlensError:
    """The error that ends a process so: how the failure of a worker is raised where it was started."""
    for kind in RobustlensError.__subclasses__():
        if kind.exit_code == exit_code:
            return kind(text)
    return RobustlensError(text)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, CUDA's, or that of torch's CPU allocator."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(w in text for w in words)
    )


def of_system(error: BaseException) -> ResourceError | None:
    """An error of the system, a full disk or a refused connection, as one line; None for any other.

    An `OSError` without the system's number is of a library, which means something else by it.
    """
    if not isinstance(error, OSError) or error.errno is None:
        return None
    return ResourceError(f"{error.filename or 'system'}: {error.strerror}")
