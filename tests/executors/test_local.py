"""Executors: failures stay where they happen, workers end with their parent, events arrive."""

import errno
import gc
import importlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from robustlens import stopping
from robustlens.errors import ConfigError, StoppedError
from robustlens.executors import InProcess, Job, LocalProcesses, Outcome, starting
from robustlens.objectives import OBJECTIVES
from robustlens.progress import Event


def _deaf(name, event):
    pass


def _fine(listen, folder):
    listen(Event("work", 1, 1, os.environ["OMP_NUM_THREADS"]))
    (folder / "fine").write_text(str(os.getpid()))


def _seen(listen, folder, number):
    began = time.monotonic()
    time.sleep(0.3)
    seen = os.environ["CUDA_VISIBLE_DEVICES"]
    (folder / f"{number}").write_text(f"{seen} {began} {time.monotonic()} {os.environ['OMP_NUM_THREADS']}")


def _wrong(listen):
    raise ConfigError("a field is wrong")


def _killed(listen):
    os.kill(os.getpid(), signal.SIGKILL)


def _held(listen, folder, name, waits_for):
    """Writes which device it sees, and works until another job is done."""
    (folder / f"{name}.began").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not (folder / waits_for).exists():
        time.sleep(0.01)
    (folder / f"{name}.done").touch()


def _bug(listen):
    raise ZeroDivisionError


def _hungry(listen):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def _full(listen):
    raise OSError(errno.ENOSPC, "No space left on device", "runs/full/run.json")


def _nameless(listen):
    raise OSError("of a library, without a number")


def _leaves(listen):
    sys.exit(0)


def _vanishes(listen):
    os._exit(0)


def _saves(listen, folder):
    with stopping.deferred():
        (folder / "begun").touch()
        while not stopping.requested():
            time.sleep(0.01)
        (folder / "saved").touch()


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
    (work,) = (event for name, event in heard if event.phase == "work")
    assert int(work.note) >= 1
    ends = {name: (event.phase, event.note) for name, event in heard if event.phase != "work"}
    assert ends.pop("fine") == ("done", "")
    assert {phase for phase, _ in ends.values()} == {"ended"}, "who watches sees that they are over"
    assert "signal 9" in ends["killed"][1]


def test_an_error_of_the_disk_is_an_outcome_of_one_line():
    jobs = [Job("full", _full), Job("nameless", _nameless)]
    outcomes = {outcome.name: outcome for outcome in LocalProcesses(2).run(jobs, _deaf)}
    assert outcomes["full"] == Outcome("full", "runs/full/run.json: No space left on device", 5)
    assert outcomes["nameless"].exit_code == 1


def test_a_worker_that_ends_without_its_work_has_failed(capfd):
    outcomes = {
        o.name: o for o in LocalProcesses(2).run([Job("leaves", _leaves), Job("vanishes", _vanishes)], _deaf)
    }
    assert (outcomes["leaves"].exit_code, "called sys.exit(0)" in outcomes["leaves"].error) == (3, True)
    assert outcomes["vanishes"].exit_code == 1
    assert "Traceback" not in capfd.readouterr().err


def test_workers_save_their_work_when_the_parent_stops(tmp_path):
    jobs = LocalProcesses(1).run([Job("saves", _saves, (tmp_path,))], _deaf)
    stop = threading.Timer(0, _stop_once, (tmp_path / "begun",))
    stop.start()
    with stopping.handled(), pytest.raises(StoppedError):
        list(jobs)
    stop.join()
    assert (tmp_path / "saved").exists()


def _stop_once(begun):
    while not begun.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def _driver(folder, module):
    """Command of a program that calls `work(folder)` of this module, whose functions workers import."""
    (folder / "executors_of_tests.py").write_text(module)
    (folder / "main.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from executors_of_tests import work\n"
        "if __name__ == '__main__': work(Path(sys.argv[1]))\n"
    )
    return [sys.executable, folder / "main.py", folder]


def test_a_worker_that_is_stopped_while_it_starts_has_stopped_and_is_no_bug(monkeypatch, capfd):
    begin = starting.start

    def stopped_at_once(*arguments):
        process = begin(*arguments)
        os.kill(process.pid, signal.SIGTERM)  # it waits until the worker hears signals
        return process

    monkeypatch.setattr(starting, "start", stopped_at_once)
    (outcome,) = LocalProcesses(1).run([Job("a", _saves, (Path("nowhere"),))], _deaf)
    assert outcome.exit_code == 75
    assert "Traceback" not in capfd.readouterr().err


def test_workers_end_within_two_seconds_of_a_killed_parent(tmp_path):
    """Without a word: nobody is there to read it."""
    command = _driver(
        tmp_path,
        "import os, time\n"
        "from robustlens.executors import Job, LocalProcesses\n"
        "from robustlens.progress import Event\n"
        "def endless(listen, folder):\n"
        "    (folder / f'{os.getpid()}.pid').touch()\n"
        "    while True:\n"
        "        listen(Event('work', 1, 2)); time.sleep(0.05)\n"
        "def work(folder):\n"
        "    jobs = [Job(name, endless, (folder,)) for name in 'ab']\n"
        "    list(LocalProcesses(2).run(jobs, lambda name, event: None))\n",
    )
    with (tmp_path / "errors").open("w") as errors:
        parent = subprocess.Popen(command, stderr=errors)
        deadline = time.monotonic() + 60
        while len(workers := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
        parent.wait()
        time.sleep(2)
    assert all(_has_ended(worker) for worker in workers)
    assert (tmp_path / "errors").read_text() == ""


def _has_ended(pid):
    """Also one that nobody has waited for yet: the first process of a container may take its time."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


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
        raise StoppedError("stopped by SIGTERM")

    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        list(InProcess().run([Job("stopped", stopped)], lambda name, event: None))


def _unconnected(listen):
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("work", "error", "exit_code"),
    [
        (_full, "runs/full/run.json: No space left on device", 5),
        (_unconnected, "system: Connection refused", 5),
        (_hungry, "one: out of memory; lower the batch size or the number of workers", 5),
        (_leaves, "one: code outside robustlens called sys.exit(0)", 3),
    ],
)
def test_what_ends_a_run_in_process_ends_no_other(tmp_path, monkeypatch, work, error, exit_code):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jobs = [Job("one", work), Job("one: next", _bug, run="one"), Job("two", _fine, (tmp_path,))]
    assert list(InProcess().run(jobs, _deaf)) == [Outcome("one", error, exit_code), Outcome("two")]


def test_a_bug_in_process_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        list(InProcess().run([Job("bug", _bug)], _deaf))


@pytest.mark.slow
def test_runs_share_the_devices_and_no_device_takes_more_than_its_share(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,5")
    executor = LocalProcesses(devices=("3", "5"), runs_per_device=2)
    executor.cores = 8
    jobs = [Job(f"run-{number}", _seen, (tmp_path, number)) for number in range(9)]
    assert not [outcome for outcome in executor.run(jobs, _deaf) if outcome.error]
    rows = [(tmp_path / f"{number}").read_text().split() for number in range(9)]
    spans = [(device, float(began), float(ended)) for device, began, ended, _ in rows]
    for device in ("3", "5"):
        own = [(began, ended) for one, began, ended in spans if one == device]
        assert len(own) >= 3
        assert max(sum(began <= moment < ended for began, ended in own) for moment, _ in own) <= 2
    assert {threads for *_, threads in rows} == {"2"}, "the cores are shared among the four"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3,5"


@pytest.mark.slow
def test_a_run_takes_the_device_that_the_fewest_use(tmp_path):
    waits = {"long": "last.done", "short": "long.began", "last": "last.began"}
    jobs = [Job(name, _held, (tmp_path, name, waited)) for name, waited in waits.items()]
    executor = LocalProcesses(2, devices=("3", "5"), runs_per_device=2)
    assert not [outcome for outcome in executor.run(jobs, _deaf) if outcome.error]
    seen = [(tmp_path / f"{name}.began").read_text() for name in waits]
    assert seen == ["3", "5", "5"]


@pytest.mark.parametrize(
    ("workers", "devices", "each", "expected"),
    [
        (None, None, 1, 6),
        (None, (), 1, 6),
        (3, (), 2, 3),
        (None, ("0",), 1, 1),
        (None, ("0", "1"), 2, 4),
        (3, ("0", "1"), 2, 3),
        (8, ("0", "1"), 1, 2),
    ],
)
def test_as_many_runs_as_there_are_places_or_else_cores(workers, devices, each, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    assert LocalProcesses(workers, devices, each).workers == expected


def _threads(listen, folder):
    import torch

    seen = [torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["ROBUSTLENS_TEST"]]
    (folder / "threads").write_text(" ".join(map(str, seen)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are of Linux alone")
def test_a_fork_of_what_is_imported_has_its_own_threads_and_the_environment_of_now(tmp_path, monkeypatch):
    for threads in (1, 2):
        monkeypatch.setenv("ROBUSTLENS_TEST", str(threads))
        executor = LocalProcesses(1, (), threads=threads)
        (outcome,) = executor.run([Job("run", _threads, (tmp_path,))], _deaf)
        assert outcome.error is None
        assert (tmp_path / "threads").read_text() == f"{threads} {threads} {threads}"


def test_a_process_that_may_see_a_cuda_device_is_no_fork(monkeypatch):
    monkeypatch.setattr("robustlens.machine.devices", lambda: ("0",))
    assert starting.context([], None).get_start_method() == "spawn"
    assert starting.context([], "1").get_start_method() == "spawn"
    if sys.platform.startswith("linux"):
        assert starting.context([], "").get_start_method() == "forkserver"


def _draws(listen, folder, name):
    (folder / name).write_text(f"{random.random()} {np.random.rand()}")  # noqa: NPY002


def test_processes_draw_numbers_of_their_own_where_nobody_gives_a_seed(tmp_path):
    forkserver._forkserver._stop()  # one that has imported numpy's random state is to be the next
    jobs = [Job(name, _draws, (tmp_path, name), imports=("numpy.random",)) for name in "ab"]
    assert all(outcome.error is None for outcome in LocalProcesses(1, ()).run(jobs, _deaf))
    one, other = ((tmp_path / name).read_text().split() for name in "ab")
    assert one[0] != other[0]
    assert one[1] != other[1]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The program that calls: a script that writes a line wherever it is imported, and defines `answer`."""
    path = tmp_path / "script.py"
    path.write_text(
        f"with open({str(tmp_path / 'imported')!r}, 'a') as file: file.write(__name__)\n"
        "def answer(): return 42\n"
    )
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return path


def _answered(listen, folder, name):
    module, _, function = name.partition(":")
    (folder / "answer").write_text(str(getattr(importlib.import_module(module), function)()))


@pytest.mark.parametrize("method", [None, pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_worker_does_not_import_the_script_that_called(script, tmp_path, monkeypatch, method):
    """A newcomer's has no `if __name__ == "__main__":`, and would begin its study again in every worker."""
    if method:
        monkeypatch.setattr(starting, "context", lambda *_: multiprocessing.get_context(method))
    main = vars(sys.modules["__main__"]).copy()
    (outcome,) = LocalProcesses(1, ()).run([Job("run", _fine, (tmp_path,))], _deaf)
    assert outcome.error is None
    assert not (tmp_path / "imported").exists()
    assert vars(sys.modules["__main__"]) == main, "it is as it was"


def test_a_worker_imports_the_script_whose_functions_its_jobs_name(script, tmp_path):
    (outcome,) = LocalProcesses(1, ()).run([Job("run", _answered, (tmp_path, "__main__:answer"))], _deaf)
    assert outcome.error is None
    assert (tmp_path / "answer").read_text() == "42"
    assert (tmp_path / "imported").read_text() == "__mp_main__"


@pytest.mark.parametrize("ends", ["raise KeyError('locked')", "raise SystemExit(0)"])
def test_a_script_that_a_worker_cannot_import_is_asked_for_its_guard_in_one_line(
    script, tmp_path, ends, capfd
):
    with script.open("a") as file:
        file.write(ends)
    (outcome,) = LocalProcesses(1, ()).run([Job("run", _answered, (tmp_path, "__main__:answer"))], _deaf)
    assert (outcome.exit_code, str(script) in outcome.error, "\n" in outcome.error) == (2, True, False)
    assert "put what it runs under if __name__ == '__main__':" in outcome.error
    assert capfd.readouterr().err == ""


def test_a_worker_imports_the_script_that_added_to_a_registry(script, tmp_path, monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setitem(OBJECTIVES, name, _fine)
    monkeypatch.delitem(OBJECTIVES, "one")
    list(LocalProcesses(1, ()).run([Job("run", _fine, (tmp_path,))], _deaf))
    assert (tmp_path / "imported").exists()


def _frozen(listen, folder):
    (folder / "frozen").write_text(str(gc.get_freeze_count()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are of Linux alone")
def test_a_fork_looks_for_no_garbage_among_what_was_imported_before_it(tmp_path):
    (outcome,) = LocalProcesses(1, ()).run([Job("run", _frozen, (tmp_path,))], _deaf)
    assert outcome.error is None
    assert int((tmp_path / "frozen").read_text()) > 100_000, "torch alone makes more objects"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are of Linux alone")
def test_the_process_that_forks_outlives_the_signals_of_a_group(tmp_path):
    """A scheduler sends SIGTERM to every process of a job: workers save, and their ends are heard of."""
    command = _driver(
        tmp_path,
        "import time\n"
        "from robustlens import stopping\n"
        "from robustlens.executors import Job, LocalProcesses\n"
        "def saves(listen, folder, name):\n"
        "    (folder / f'{name}.begun').touch()\n"
        "    with stopping.deferred():\n"
        "        while not stopping.requested():\n"
        "            time.sleep(0.01)\n"
        "        time.sleep(1)\n"
        "        (folder / f'{name}.saved').touch()\n"
        "def work(folder):\n"
        "    jobs = [Job(name, saves, (folder, name)) for name in 'ab']\n"
        "    with stopping.handled():\n"
        "        list(LocalProcesses(2, ()).run(jobs, lambda name, event: None))\n",
    )
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(parent.pid, signal.SIGTERM)
    parent.wait(30)
    assert len(list(tmp_path.glob("*.saved"))) == 2


def test_runs_on_the_cpu_see_no_device(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (outcome,) = LocalProcesses(1, ()).run([Job("run", _seen, (tmp_path, 0))], _deaf)
    assert outcome.error is None
    assert (tmp_path / "0").read_text().startswith(" ")
