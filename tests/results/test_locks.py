"""Locks: one writer at a time, on one host and on several; a dead one's folder is taken over, aloud."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from robustlens.errors import LockedError, ResourceError, StateError
from robustlens.results import files, locks
from robustlens.results.leftovers import report_folder
from robustlens.results.locks import locked, owner


def _hold(folder, ready, release):
    with locked(Path(folder)):
        ready.set()
        release.wait(30)


@pytest.fixture
def other(tmp_path):
    """A lease of a process on another host, renewed now."""
    with locked(tmp_path / "elsewhere"):
        lease = owner_file(tmp_path / "elsewhere")
    return replace(lease, pid=4242, host="elsewhere", machine="elsewhere", token="theirs")


def owner_file(folder):
    return locks.Lease(**json.loads((folder / "lease").read_text()))


def write_lease(folder, lease):
    folder.mkdir(exist_ok=True)
    (folder / "lease").write_text(json.dumps(asdict(lease)))


def test_a_lock_keeps_other_processes_out_and_dies_with_its_holder(tmp_path, caplog):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(LockedError, match=f"process {holder.pid} on ") as caught, locked(tmp_path):
        pass
    assert caught.value.exit_code == 6
    assert owner(tmp_path).pid == holder.pid
    holder.kill()
    holder.join()
    assert owner(tmp_path) is None
    with locked(tmp_path):
        assert owner_file(tmp_path).pid == os.getpid()
    assert f"taken over from process {holder.pid}" in caplog.text
    assert not (tmp_path / "lease").exists()


def test_a_lease_says_who_holds_the_folder(tmp_path):
    before = time.time()
    with locked(tmp_path):
        lease = owner_file(tmp_path)
        assert (lease.pid, before <= lease.start <= lease.heartbeat <= time.time()) == (os.getpid(), True)
        with pytest.raises(LockedError), locked(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"], "the lease ends with the work"


def test_the_lock_is_neither_emptied_nor_followed(tmp_path):
    (tmp_path / "lock").write_text("whatever")
    with locked(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == "whatever"
    (tmp_path / "lock").unlink()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "lock").symlink_to("file")
    with pytest.raises(StateError, match="lock"), locked(tmp_path):
        pass
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(StateError, match="lock"), locked(tmp_path):
        pass


def test_a_lease_holds_where_the_locks_of_the_system_do_not_reach(tmp_path, other, caplog, monkeypatch):
    """As on NFS: nothing but the file says that another host works here."""
    monkeypatch.setattr(locks, "_SETTLE", 0.01)
    folder = tmp_path / "run"
    write_lease(folder, other)
    with pytest.raises(LockedError, match=r"process 4242 on elsewhere.*at most 120 s if"), locked(folder):
        pass
    assert owner_file(folder) == other, "a refusal changes nothing"
    write_lease(folder, replace(other, heartbeat=time.time() - locks.LIMIT - 1))
    with locked(folder):
        pass
    assert "taken over from process 4242 on elsewhere" in caplog.text


def test_a_process_of_this_host_is_looked_up(tmp_path, other):
    here = replace(other, machine=locks._machine(), process="")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        alive = replace(here, pid=process.pid, process=locks._process(process.pid))
        assert alive.is_alive()
        assert replace(alive, heartbeat=0.0).is_alive(), "a stopped process still holds its folder"
        assert not replace(alive, process="1").is_alive(), "its number was given to another process"
        process.kill()
        process.wait()
        assert not alive.is_alive()
    assert not replace(here, pid=os.getpid()).is_alive(), "this process asks because it has the lock"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b'{"pid": 1}', b"[" * 4000])
def test_a_damaged_lease_is_taken_over(tmp_path, content, caplog, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE", 0.01)
    (tmp_path / "lease").write_bytes(content)
    with locked(tmp_path):
        assert owner_file(tmp_path).pid == os.getpid()
    assert "whose lease is damaged" in caplog.text


def test_only_what_another_host_may_take_over_as_well_is_waited_for(tmp_path, other, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(locks.time, "sleep", waits.append)
    monkeypatch.setattr(locks, "RENEW", 1e6)
    gone = replace(other, heartbeat=0.0)
    here = replace(gone, machine=locks._machine(), pid=os.getpid())
    for place, (lease, expected) in enumerate(((None, 0), (here, 0), (gone, 1))):
        folder = tmp_path / str(place)
        if lease is not None:
            write_lease(folder, lease)
        with locked(folder):
            assert len(waits) == expected
    assert waits == [0.5]


def test_a_refusal_names_an_end_for_another_host_alone(tmp_path, other):
    ends = "at most 120 s if that process is gone"
    assert ends in str(locks._refusal(tmp_path, other))
    here = str(locks._refusal(tmp_path, replace(other, machine=locks._machine())))
    assert "(process 4242 on elsewhere, since " in here
    assert ends not in here
    unknown = f"{tmp_path}: another process is writing here; wait for it, or choose another --out"
    assert str(locks._refusal(tmp_path, None)) == unknown


@pytest.mark.parametrize(
    ("age", "alive"), [(0, True), (118, True), (122, False), (-118, True), (-122, False)]
)
def test_a_lease_that_cannot_be_looked_up_ends_two_minutes_after_its_last_renewal(other, age, alive):
    assert replace(other, heartbeat=time.time() - age).is_alive() == alive


def test_the_owner_is_the_one_who_lives(tmp_path, other):
    assert owner(tmp_path / "nowhere") is None
    write_lease(tmp_path / "run", other)
    assert owner(tmp_path / "run") == other
    write_lease(tmp_path / "run", replace(other, heartbeat=0.0))
    assert owner(tmp_path / "run") is None
    for wrong in (
        {"pid": 0},
        {"pid": 1 << 31},
        {"pid": -5},
        {"host": 3},
        {"start": -1.0},
        {"start": "1"},
        {"start": 1 << 33},
    ):
        (tmp_path / "run" / "lease").write_text(json.dumps(asdict(other) | wrong))
        assert owner(tmp_path / "run") is None, wrong
        assert locks._read(tmp_path / "run" / "lease") is None, wrong


def test_an_owner_that_works_on_is_not_asked_again(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setattr(locks._Holder, "_renew_once", lambda self: pytest.fail("looked"))
        files.write_atomic(tmp_path / "a", b"x")


def test_of_two_hosts_that_take_over_one_works(tmp_path, other, monkeypatch):
    folder = tmp_path / "run"
    write_lease(folder, replace(other, heartbeat=0.0))
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: write_lease(folder, other))
    with pytest.raises(LockedError, match="elsewhere"), locked(folder):
        pass
    assert owner_file(folder) == other


def test_a_lease_is_renewed_and_a_lost_one_lets_nothing_be_written(tmp_path, other, monkeypatch):
    monkeypatch.setattr(locks, "RENEW", 0.02)
    folder = tmp_path / "run"
    with locked(folder):
        first = owner_file(folder)
        wait_until(lambda: owner_file(folder).heartbeat > first.heartbeat)
        files.write_atomic(folder / "a", b"mine")
        write_lease(folder, other)
        wait_until(lambda: locks._holders[0].lost)
        with pytest.raises(LockedError, match="another process took over"):
            files.write_atomic(folder / "a", b"too late")
        files.write_atomic(tmp_path / "b", b"elsewhere")
    assert (folder / "a").read_bytes() == b"mine"
    assert owner_file(folder) == other, "the other's lease stays"


def test_a_process_that_slept_looks_before_it_writes(tmp_path, other):
    folder = tmp_path / "run"
    with locked(folder):
        locks._holders[0].renewed -= locks.LIMIT + 1
        write_lease(folder, other)
        with pytest.raises(LockedError, match="another process took over"):
            files.write_atomic(folder / "a", b"x")


def replace_lease(folder, lease):
    """As another host takes a folder over."""
    (folder / "theirs").write_text(json.dumps(asdict(lease)))
    (folder / "theirs").replace(folder / "lease")


def test_a_lease_that_is_taken_over_while_it_is_renewed_stays_taken_over(tmp_path, other, monkeypatch):
    """The other host comes between the look at the lease and its renewal."""
    folder = tmp_path / "run"
    with locked(folder):
        (holder,) = locks._holders
        place = type(holder)._is_in_place

        def taken_over_after(self):
            answer = place(self)
            replace_lease(folder, other)
            return answer

        monkeypatch.setattr(type(holder), "_is_in_place", taken_over_after)
        holder._renew_once()
        monkeypatch.undo()
        assert owner_file(folder) == other, "the renewal went to a file that has lost its name"
        with pytest.raises(LockedError, match="another process took over"):
            files.write_atomic(folder / "a", b"too late")
    assert owner_file(folder) == other


def test_an_owner_sees_at_the_next_write_that_it_lost_its_lease(tmp_path, other):
    folder = tmp_path / "run"
    with locked(folder):
        replace_lease(folder, other)
        with pytest.raises(LockedError, match="another process took over"):
            files.write_atomic(folder / "a", b"x")
    assert not (folder / "a").exists()


def test_an_owner_that_loses_its_lease_while_it_writes_replaces_nothing(tmp_path, other, monkeypatch):
    folder = tmp_path / "run"
    fsync = os.fsync
    with locked(folder):
        files.write_atomic(folder / "a", b"mine")
        monkeypatch.setattr(os, "fsync", lambda handle: (replace_lease(folder, other), fsync(handle)))
        with pytest.raises(LockedError, match="another process took over"):
            files.write_atomic(folder / "a", b"too late")
        monkeypatch.undo()
    assert (folder / "a").read_bytes() == b"mine"


def test_of_two_hosts_that_begin_at_once_one_works(tmp_path, other, monkeypatch):
    """Neither saw a lease of the other when it looked."""
    folder = tmp_path / "run"
    link = os.link
    monkeypatch.setattr(os, "link", lambda *paths: (replace_lease(folder, other), link(*paths)))
    with pytest.raises(LockedError, match="process 4242 on elsewhere"), locked(folder):
        pass
    assert owner_file(folder) == other
    assert not list(folder.glob(".lease*"))


def test_a_lease_that_somebody_removed_is_put_back(tmp_path):
    with locked(tmp_path):
        first = owner_file(tmp_path)
        (tmp_path / "lease").unlink()
        files.write_atomic(tmp_path / "a", b"mine")
        assert owner_file(tmp_path).token == first.token
        locks._holders[0]._renew_once()
        assert owner_file(tmp_path).heartbeat > first.heartbeat


@pytest.mark.parametrize("clock", ["monotonic", "wall"])  # the first stands still while a laptop sleeps
def test_an_owner_that_slept_does_not_put_its_lease_back(tmp_path, clock):
    """Another took over, finished and released the folder meanwhile: no lease is there, and none of ours may be."""
    long = locks.LIMIT / 2 + 1  # by the other's clock it may be twice as long
    with locked(tmp_path):
        files.write_atomic(tmp_path / "a", b"theirs, finished")
        (holder,) = locks._holders
        if clock == "wall":
            holder.lease = replace(holder.lease, heartbeat=time.time() - long)
        else:
            holder.renewed -= long
        (tmp_path / "lease").unlink()
        for change in (lambda path: files.write_atomic(path, b"old"), files.remove):
            with pytest.raises(LockedError, match="another process took over"):
                change(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"theirs, finished"
    assert not (tmp_path / "lease").exists()


def test_an_owner_that_lost_its_lease_removes_no_file_or_folder(tmp_path, other):
    run = tmp_path / "run"
    with locked(run):
        files.write_atomic(run / "state" / "a", b"x")
        replace_lease(run, other)
        for path in (run / "state", run / "state" / "a"):
            with pytest.raises(LockedError, match="another process took over"):
                files.remove(path)
        assert (run / "state" / "a").read_bytes() == b"x"
    files.remove(run / "state")
    files.remove(run / "state")
    assert not (run / "state").exists()


def test_a_release_waits_for_the_renewal_that_has_begun(tmp_path, monkeypatch):
    """Else the renewal would write to a file that has the number of the closed one by now."""
    looking, go_on = threading.Event(), threading.Event()

    def looks_long(self):
        looking.set()
        return go_on.wait(30)

    holder = locks._Holder(tmp_path)
    monkeypatch.setattr(type(holder), "_is_in_place", looks_long)
    renewal, release = (threading.Thread(target=each) for each in (holder._renew_once, holder.release))
    renewal.start()
    assert looking.wait(30)
    release.start()
    release.join(0.05)
    assert release.is_alive()
    assert (tmp_path / "lease").exists()
    go_on.set()
    renewal.join(30)
    release.join(30)
    assert not (tmp_path / "lease").exists()


@pytest.mark.skipif(os.name != "posix", reason="the system has no file modes")
def test_a_lease_can_be_read_by_whoever_can_read_other_files(tmp_path):
    mask = os.umask(0o002)
    try:
        with locked(tmp_path):
            files.write_atomic(tmp_path / "a", b"x")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert modes["lease"] == modes["a"] == 0o664


def test_a_lease_that_cannot_be_read_is_not_taken_over(tmp_path, other, monkeypatch):
    """Of another user, perhaps, or on a disk that does not answer: that is no damage."""
    write_lease(tmp_path, other)
    before = (tmp_path / "lease").read_bytes()
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(ResourceError, match=r"cannot be written \(denied\)") as caught, locked(tmp_path):
        pass
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "lease").read_bytes() == before
    with pytest.raises(LockedError), locked(tmp_path):
        pass


def refused_by_the_system(*_, **__):
    raise PermissionError(13, "denied")


def blocked_by_a_folder(folder, monkeypatch):
    (folder / "lease").unlink()
    (folder / "lease").mkdir()


def hidden(folder, monkeypatch):
    """As another's lease is to whoever may not read it, or where the disk does not answer."""
    (folder / "lease").unlink()
    (folder / "lease").touch()
    monkeypatch.setattr(Path, "read_bytes", refused_by_the_system)


def lost_and_refused(folder, monkeypatch):
    (folder / "lease").unlink()
    monkeypatch.setattr(locks, "place", refused_by_the_system)


def slept_without_handle(folder, monkeypatch):
    """As on Windows, where no file is kept open that could be compared."""
    (holder,) = locks._holders
    monkeypatch.setattr(holder, "_is_in_place", lambda: True)
    holder.renewed -= locks.LIMIT + 1
    monkeypatch.setattr(Path, "read_bytes", refused_by_the_system)


@pytest.mark.parametrize("change", [blocked_by_a_folder, hidden, lost_and_refused, slept_without_handle])
def test_an_owner_that_cannot_look_at_its_lease_writes_nothing(tmp_path, monkeypatch, change):
    with locked(tmp_path):
        files.write_atomic(tmp_path / "a", b"mine")
        change(tmp_path, monkeypatch)
        for write in (lambda path: files.write_atomic(path, b"too late"), files.remove):
            with pytest.raises(LockedError, match=r"lease: cannot be renewed \(.+\), so another") as caught:
                write(tmp_path / "a")
        monkeypatch.undo()
        assert "\n" not in str(caught.value)
        assert (tmp_path / "a").read_bytes() == b"mine"


def test_an_owner_that_can_look_at_its_lease_again_goes_on(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setattr(os, "open", refused_by_the_system)
        monkeypatch.setattr(Path, "read_bytes", refused_by_the_system)
        with pytest.raises(LockedError, match="cannot be renewed"):
            files.write_atomic(tmp_path / "a", b"x")
        monkeypatch.undo()
        files.write_atomic(tmp_path / "a", b"x")
        assert (tmp_path / "a").read_bytes() == b"x"


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_next_writer_sweeps_what_a_killed_save_left(tmp_path):
    names = (".state.safetensors.abcd1234.tmp", ".evaluation.json.x_yz0123", ".lease.abcd1234.tmp")
    for folder in (tmp_path, tmp_path / "evaluation.state" / "test", tmp_path / "runs" / "a"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).touch()
    (tmp_path / "runs" / "a" / "lock").touch()
    (tmp_path / ".mine.txt").touch()
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
            (*names, "lock", ".mine.txt", "lock", "lease")
        ), "but those of a run, which has its own lock"


def test_files_of_others_in_a_folder_with_a_run_stay_and_lock_nobody_out(tmp_path):
    """As with `--out .` in a project, which has its own hidden files and a virtual environment."""
    mine = [
        "conf/.settings.json.original",
        ".data.csv.20251123",
        ".figure.pdf.reviewed",
        ".evaluation.json.Original",
        ".cache/.state.safetensors.abcd1234.tmp",
        "state/.index.html.mybackup",
    ]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "python").symlink_to("/usr/bin/env")
    with locked(tmp_path):
        pass
    assert report_folder(tmp_path, tmp_path) == tmp_path
    assert all((tmp_path / name).exists() for name in mine)


@pytest.mark.parametrize("change", [{"heartbeat": 1e10}, {"heartbeat": float("inf")}, {"start": 1e300}])
def test_a_lease_of_numbers_that_no_clock_shows_holds_nothing(tmp_path, other, change, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE", 0.01)
    write_lease(tmp_path / "run", replace(other, **change))
    with locked(tmp_path / "run"):
        assert owner_file(tmp_path / "run").pid == os.getpid()


def test_the_name_of_a_host_writes_nothing_but_text(tmp_path, other):
    write_lease(tmp_path / "run", replace(other, host="there\x1b[31m\n" + "x" * 2000))
    with pytest.raises(LockedError) as caught, locked(tmp_path / "run"):
        pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_in_the_place_of_a_lease_is_refused(tmp_path):
    os.mkfifo(tmp_path / "lease")
    with pytest.raises(StateError, match="lease: is no plain file"), locked(tmp_path):
        pass
