"""One writer at a time in a folder: a lock of the system, and a lease where that does not reach.

The system frees `lock` when its process ends, however it ends, but may not know of other hosts that share
the folder (NFS). For them `lease` names the owner, who renews it while it works. The lease of an owner that
is gone is taken over: at once where its process can be looked up, and otherwise when it was not renewed for
`LIMIT` seconds, so the clocks of the hosts must agree within a minute. An owner that lost its lease, because
its host slept for instance, can write no more: it looks for its own file in the place of the lease before
each write, and renews that file alone, so that it never overwrites the lease of the one that took over. Where
it finds no lease, it puts its own back only if nobody can have taken over, finished and gone in between.
Where it cannot look, it does not write.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from robustlens.errors import LockedError, ResourceError, StateError
from robustlens.results.leftovers import sweep
from robustlens.results.links import refuse_links
from robustlens.results.placing import place

RENEW, LIMIT = 15.0, 120.0
"""Seconds between two renewals of a lease, and from the last one to its end."""
_LENGTH = 2048  # bytes of a lease: renewed in place, it must not leave an end of the one before
_SETTLE = 0.5  # seconds in which another host that takes over the same lease shows itself
_HOST = socket.gethostname()
_log = logging.getLogger("robustlens")


@dataclass(frozen=True)
class Lease:
    """Owner of a folder.

    Attributes:
        pid, host: of its process. machine: the running system whose processes `pid` counts. process: when the
            process started, as the system tells it; empty where it does not.
        start, heartbeat: when the lease began and when it was last renewed, in seconds since 1970.
        token: distinguishes two leases.
    """

    pid: int
    host: str
    machine: str
    process: str
    start: float
    heartbeat: float
    token: str

    def is_alive(self) -> bool:
        """Whether the owner still works, as far as this process can tell."""
        if self.machine == _machine() and _sees_processes():
            process = _process(self.pid)
            if process is None or self.pid == os.getpid():
                return False
            if process and self.process:
                return process == self.process
        return abs(time.time() - self.heartbeat) < LIMIT  # one of the future is no sign of life

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.start))
        host = "".join(character for character in self.host[:100] if character.isprintable())
        return f"process {self.pid} on {host}, since {since}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing, and remove what killed writers left unfinished in it.

    Raises:
        LockedError: another process holds it. StateError: a link in it leads outside.
        ResourceError: it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(folder)
            path = folder / "lock"
            for one in (path, folder / "lease"):
                if one.is_symlink() or (one.exists() and not one.is_file()):
                    raise StateError(f"{one}: is no plain file; remove it")
            lock = FileLock(path, thread_local=False)
            lock.acquire(timeout=0)
            held.callback(lock.release)
            held.callback(_Holder(folder).release)
        except Timeout as error:
            raise _refusal(folder, owner(folder)) from error
        except OSError as error:
            raise ResourceError(
                f"{folder}: cannot be written ({error.strerror or error}); choose another --out"
            ) from error
        sweep(folder)
        yield


def owner(folder: Path) -> Lease | None:
    """The process that is writing in a folder; None where none is."""
    with contextlib.suppress(OSError):
        lease = _read(folder / "lease")
        return lease if lease is not None and lease.is_alive() else None
    return None


def check_lease(path: Path) -> None:
    """Raise `LockedError` if `path` lies in a folder whose lease this process held and lost."""
    for holder in tuple(_holders):
        if path.is_relative_to(holder.folder):
            holder.check()


class _Holder:
    """The lease of this process on a folder, renewed by a thread until it is released."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lease"
        self.lost = False
        self.released = threading.Event()
        self.turn = threading.Lock()  # of whoever renews or releases; the thread may come as the process does
        self.renewed = time.monotonic()
        self.file: int | None = None  # our lease, whatever lies in its place; None off POSIX
        self.lease = self._acquire()
        _holders.append(self)
        threading.Thread(target=self._renew, daemon=True).start()

    def check(self) -> None:
        # Where this process slept, another may have taken over.
        if self._age() > LIMIT or not self._is_in_place():
            try:
                self._renew_once()
            except OSError as error:  # what cannot be looked at may be another's
                raise LockedError(
                    f"{self.path}: cannot be renewed ({error.strerror or error}), so another process may "
                    "have taken over; start again where the disk answers"
                ) from error
        if self.lost:
            raise LockedError(
                f"{self.folder}: another process took over, since this one gave no sign for {LIMIT:.0f} s"
            )

    def release(self) -> None:
        with self.turn:
            self.released.set()
            _holders.remove(self)
            with contextlib.suppress(OSError):
                now = _read(self.path)
                if now is not None and now.token == self.lease.token:
                    self.path.unlink(missing_ok=True)
            if self.file is not None:
                os.close(self.file)

    def _acquire(self) -> Lease:
        now = time.time()
        machine, process = _machine(), _process(os.getpid()) or ""
        lease = Lease(os.getpid(), _HOST, machine, process, now, now, uuid.uuid4().hex)
        there = self.path.exists()
        other = _read(self.path)
        if other is not None and other.is_alive():
            raise _refusal(self.folder, other)
        try:
            self.file = place(self.path, _content(lease), new=not there)
        except FileExistsError:  # another host came first
            raise _refusal(self.folder, _read(self.path)) from None
        if there and (other is None or other.machine != machine):
            time.sleep(_SETTLE)
        winner = _read(self.path)
        if winner is None or winner.token != lease.token:
            raise _refusal(self.folder, winner)
        if there:
            before = other or "a process whose lease is damaged"
            _log.warning("%s: taken over from %s, which ended without releasing it", self.folder, before)
        return lease

    def _renew(self) -> None:
        while not self.released.wait(RENEW):
            with contextlib.suppress(OSError):  # `check` asks again, and tells
                self._renew_once()

    def _age(self) -> float:
        """Seconds since the last renewal. One of the clocks stands still while the host sleeps."""
        return max(time.monotonic() - self.renewed, abs(time.time() - self.lease.heartbeat))

    def _renew_once(self) -> None:
        with self.turn:
            now, lease = _read(self.path), replace(self.lease, heartbeat=time.time())
            if self.lost or self.released.is_set() or not self.folder.is_dir():
                return
            if not self.path.exists():  # somebody tidied up, or took over and has finished
                self._restore(lease)
            elif (now is not None and now.token != lease.token) or not self._is_in_place():
                self.lost = True
            elif self.file is None:
                place(self.path, _content(lease), new=False)
            else:
                os.pwrite(self.file, _content(lease), 0)
            if not self.lost:
                self.lease, self.renewed = lease, time.monotonic()

    def _restore(self, lease: Lease) -> None:
        before = self.file
        if self._age() > LIMIT / 2:  # by its clock, another host may have counted more than this one
            self.lost = True
            return
        try:
            self.file = place(self.path, _content(lease), new=True)
        except FileExistsError:
            self.lost = True
        else:
            if before is not None:
                os.close(before)

    def _is_in_place(self) -> bool:
        """Whether the file in the place of the lease is ours. It is opened, so that NFS looks again."""
        if self.file is None:
            return True
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(handle), os.fstat(self.file))
        finally:
            os.close(handle)


_holders: list[_Holder] = []


def _refusal(folder: Path, lease: Lease | None) -> LockedError:
    who = "" if lease is None else f" ({lease})"
    ends = ""
    if lease is not None and not (lease.machine == _machine() and _sees_processes()):
        ends = f", at most {LIMIT:.0f} s if that process is gone"
    return LockedError(
        f"{folder}: another process is writing here{who}; wait for it{ends}, or choose another --out"
    )


def _read(path: Path) -> Lease | None:
    """The lease in a file; None where there is none, or what is there is none.

    Raises:
        OSError: there is one, and this process may not read it, or cannot at present.
    """
    try:
        if path.is_symlink():
            return None
        lease = Lease(**json.loads(path.read_bytes()[:4096]))
        numbers = (lease.pid, lease.start, lease.heartbeat)
        texts = (lease.host, lease.machine, lease.process, lease.token)
        valid = all(isinstance(n, int | float) and 0 <= n < 1 << 33 for n in numbers) and all(
            isinstance(t, str) for t in texts
        )
        return lease if valid and 0 < lease.pid < 1 << 31 else None
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


def _content(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode().ljust(_LENGTH)


def _machine() -> str:
    """The running system, and the name space of its processes where it has several."""
    parts = [_HOST]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _sees_processes() -> bool:
    """Whether this process can tell which others of its system live."""
    return os.name == "posix"


def _process(pid: int) -> str | None:
    """Start of a process of this system, as the system counts; "" if unknown, None if there is none."""
    if not _sees_processes():  # os.kill would send it Ctrl-C there
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        state, start = fields.split()[0], fields.split()[19]
        return None if state in "ZX" else start
    except (OSError, IndexError):
        return ""
