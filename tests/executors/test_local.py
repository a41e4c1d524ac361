"""Executors: failures stay where they happen, workers end with their parent, events arrive."""

import os
import signal
import time

import pytest

from robustlens.errors import ConfigError, StoppedError
from robustlens.executors import InProcess, Job, LocalProcesses
from robustlens.progress import Event


def _fine(listen, folder):
    listen(Event("work", 1, 1, os.environ["OMP_NUM_THREADS"]))
    (folder / "fine").write_text(str(os.getpid()))


def _wrong(listen):
    raise ConfigError("a field is wrong")


def _killed(listen):
    os.kill(os.getpid(), signal.SIGKILL)


def _bug(listen):
    raise ZeroDivisionError


def _hungry(listen):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def _endless(listen, folder):
    (folder / f"{os.getpid()}").touch()
    time.sleep(60)


def test_one_failure_does_not_touch_the_others(tmp_path, capfd):
    heard = []
    jobs = [
        Job("wrong", _wrong),
        Job("killed", _killed),
        Job("bug", _bug),
        Job("hungry", _hungry),
        Job("fine", _fine, (tmp_path,)),
    ]
    outcomes = {
        o.name: o for o in LocalProcesses(2).run(jobs, lambda name, event: heard.append((name, event)))
    }
    assert outcomes["fine"].error is None
    assert (tmp_path / "fine").read_text() != str(os.getpid())
    assert (outcomes["wrong"].error, outcomes["wrong"].exit_code) == ("a field is wrong", 2)
    assert outcomes["killed"].exit_code == 5
    assert "signal 9" in outcomes["killed"].error
    assert outcomes["bug"].exit_code == 1
    assert (outcomes["hungry"].exit_code, "out of memory" in outcomes["hungry"].error) == (5, True)
    assert "ZeroDivisionError" in capfd.readouterr().err  # a bug keeps its traceback
    assert [(name, event.phase) for name, event in heard] == [("fine", "work")]
    assert int(heard[0][1].note) >= 1


def test_workers_end_when_the_parent_stops(tmp_path):
    class Stop(Exception):  # noqa: N818 - stands for a signal
        pass

    def listen(name, event):
        raise Stop

    jobs = [Job("endless", _endless, (tmp_path,)), Job("fine", _fine, (tmp_path,))]
    with pytest.raises(Stop):
        list(LocalProcesses(2).run(jobs, listen))
    for path in tmp_path.iterdir():
        if path.name.isdigit():
            with pytest.raises(ProcessLookupError):
                os.kill(int(path.name), 0)


def test_in_process_runs_the_same_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcomes = list(
        InProcess().run([Job("wrong", _wrong), Job("fine", _fine, (tmp_path,))], lambda name, event: None)
    )
    assert [outcome.error for outcome in outcomes] == ["a field is wrong", None]

    def stopped(listen):
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        list(InProcess().run([Job("stopped", stopped)], lambda name, event: None))
