"""A pretended Windows: what only POSIX systems have is missing from `os` and `signal`, and cannot be imported."""

import builtins
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

POSIX_MODULES = frozenset(
    ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
)
"""Modules that Windows does not have."""
POSIX_NAMES = {
    "os": frozenset(
        [
            "O_DIRECTORY",
            "O_NOFOLLOW",
            "O_NONBLOCK",
            "WNOHANG",
            "chown",
            "chroot",
            "fchmod",
            "fchown",
            "fork",
            "forkpty",
            "getegid",
            "geteuid",
            "getgid",
            "getgroups",
            "getloadavg",
            "getpgid",
            "getpgrp",
            "getpriority",
            "getsid",
            "getuid",
            "initgroups",
            "killpg",
            "lchown",
            "lockf",
            "major",
            "mkfifo",
            "mknod",
            "nice",
            "openpty",
            "pathconf",
            "posix_fadvise",
            "posix_fallocate",
            "posix_spawn",
            "pread",
            "preadv",
            "pwrite",
            "pwritev",
            "sched_getaffinity",
            "sched_setaffinity",
            "sched_yield",
            "sendfile",
            "setgid",
            "setpgid",
            "setpriority",
            "setsid",
            "setuid",
            "statvfs",
            "sync",
            "sysconf",
            "tcgetpgrp",
            "uname",
            "wait",
            "wait3",
            "wait4",
            "waitid",
        ]
    ),
    "signal": frozenset(
        [
            "ITIMER_REAL",
            "SIGALRM",
            "SIGCHLD",
            "SIGCONT",
            "SIGHUP",
            "SIGKILL",
            "SIGPIPE",
            "SIGQUIT",
            "SIGSTOP",
            "SIGTSTP",
            "SIGUSR1",
            "SIGUSR2",
            "SIGXCPU",
            "SIG_BLOCK",
            "SIG_SETMASK",
            "SIG_UNBLOCK",
            "alarm",
            "getitimer",
            "pause",
            "pthread_kill",
            "pthread_sigmask",
            "setitimer",
            "siginterrupt",
            "sigpending",
            "sigtimedwait",
            "sigwait",
            "sigwaitinfo",
        ]
    ),
}
"""Names of modules that Windows has, which it does not have (Python's documentation: "Availability: Unix")."""


class _Pretended:
    """A module as it is on Windows, for the modules that it is given to."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self._module, self._instead = module, instead

    def __getattr__(self, name: str) -> Any:
        if name in POSIX_NAMES[self._module.__name__]:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r} on Windows")
        return self._instead.get(name, getattr(self._module, name))


def _kill(pid: int, number: int) -> None:
    raise AssertionError(f"os.kill({pid}, {number}) ends a process on Windows, or sends it Ctrl-C")


OS = _Pretended(os, name="nt", kill=_kill)
SIGNAL = _Pretended(signal)


@contextmanager
def pretended_windows(*modules: Any) -> Iterator[None]:
    """Inside, the given modules of robustlens see the `os` and `signal` of Windows."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, instead in (("os", OS), ("signal", SIGNAL)):
                if hasattr(module, name):
                    patch.setattr(module, name, instead)
        yield


def block_posix_modules() -> None:
    """Refuse the imports of POSIX modules, and the names that only POSIX has, to every module of robustlens.

    For the rest of this process. Other packages look at the name of the system before they import these.
    """
    found, pretended = builtins.__import__, {"os": OS, "signal": SIGNAL}

    def imported(name: str, scope: Any = None, *more: Any, **most: Any) -> Any:
        if (scope or {}).get("__name__", "").partition(".")[0] != "robustlens":
            return found(name, scope, *more, **most)
        if name.partition(".")[0] in POSIX_MODULES:
            raise ModuleNotFoundError(f"no module named {name!r} on Windows", name=name)
        return pretended.get(name) or found(name, scope, *more, **most)

    builtins.__import__ = imported  # type: ignore[assignment]
