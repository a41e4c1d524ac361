"""Slurm, by submitit's local and debug executors: no Slurm is needed."""

import gc
import os
import signal
import sys
import time

import pytest

from robustlens import stopping
from robustlens.errors import ConfigError, LockedError, ResourceError, StoppedError
from robustlens.executors import Job, Outcome, Resources, setbacks, slurm
from robustlens.executors.slurm import Slurm
from robustlens.executors.slurm_job import Tail
from robustlens.progress import Event, silent

submitit = pytest.importorskip("submitit", reason="needs the extra cluster")
pytestmark = [
    pytest.mark.lasts(100),
    # submitit leaves files of its logs, and processes that it has ended, to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _log(listen, path, word):
    with path.open("a") as file:
        file.write(f"{word}\n")
    listen(Event(word, 1, 1, os.environ["OMP_NUM_THREADS"], 7, {"loss": 0.5}))


def _wrong(listen, path):
    _log(listen, path, "wrong")
    raise ConfigError("a field is wrong")


def _saved_once(listen, path):
    """Works until it is asked to stop; the second time it is done at once."""
    path.with_name("process").write_text(str(os.getpid()))
    with stopping.deferred():
        _log(listen, path, "begun")
        while path.read_text().count("begun") == 1 and not stopping.requested():
            time.sleep(0.01)
        _log(listen, path, "saved")


def _killed_once(listen, path):
    _log(listen, path, "begun")
    if path.read_text().count("begun") == 1:
        os.kill(os.getpid(), 9)


def _bug(listen):
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _results_of_killed_jobs_are_not_waited_for(monkeypatch):
    """Submitit waits 15 seconds for a file that a slow file system may still show."""
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)


@pytest.fixture(autouse=True)
def _garbage_of_a_test_is_collected_where_its_warnings_are_ignored():
    yield
    gc.collect()


def _run(executor, some):
    heard = []
    outcomes = {o.name: o for o in executor.run(some, lambda name, event: heard.append((name, event)))}
    return outcomes, heard


def test_a_run_is_one_job_with_all_its_stages(tmp_path):
    path = tmp_path / "log"
    some = [
        Job("run: b", _log, (path, "b"), run="run", after=("run: a",)),
        Job("run: a", _log, (path, "a"), run="run"),
        Job("wrong", _wrong, (path,)),
    ]
    outcomes, heard = _run(Slurm(tmp_path / "slurm", cluster="debug", threads=1), some)
    assert {name: (o.error, o.exit_code) for name, o in outcomes.items()} == {
        "run": (None, 0),
        "wrong": ("a field is wrong", 2),
    }
    assert path.read_text().split() == ["a", "b", "wrong"]
    events = [event for name, event in heard if name == "run"]
    assert events == [
        *(Event(word, 1, 1, "1", 7, {"loss": 0.5}) for word in "ab"),
        Event("done", 1, 1, ""),
    ]


@pytest.mark.slow
def test_jobs_go_on_after_a_loss_and_end_by_their_own_errors(tmp_path, capfd):
    some = [
        Job("killed", _killed_once, (tmp_path / "killed",), resources=Resources(threads=2)),
        Job("wrong", _wrong, (tmp_path / "wrong",)),
        Job("bug", _bug),
    ]
    outcomes, heard = _run(Slurm(tmp_path / "slurm", cluster="local"), some)
    assert {name: o.exit_code for name, o in outcomes.items()} == {"killed": 0, "wrong": 2, "bug": 1}
    assert (tmp_path / "killed").read_text().count("begun") == 2
    assert [event.note for name, event in heard if event.phase == "begun"] == ["2", "2"]
    assert [event.done for name, event in heard if event.phase == "lost its worker"] == [1]
    assert "ZeroDivisionError" in capfd.readouterr().err
    (outcome,) = _run(
        Slurm(tmp_path / "slurm", cluster="local", retries=0),
        [Job("killed", _killed_once, (tmp_path / "again",))],
    )[0].values()
    assert (outcome.exit_code, "killed: lost its worker" in outcome.error) == (5, True)


def _saves_slowly_once(listen, path):
    """Works until it is asked to stop, and saves until it may; the second time it is done at once."""
    path.with_name("process").write_text(str(os.getpid()))
    with stopping.deferred():
        _log(listen, path, "begun")
        if path.read_text().count("begun") == 1:
            wait_for(stopping.requested)
            _log(silent, path, "asked")
            wait_for(path.with_name("all_signals").exists)
        _log(listen, path, "saved")


@pytest.mark.slow
@pytest.mark.parametrize("names", ["SIGUSR2", "SIGTERM SIGUSR2", "SIGUSR2 SIGTERM", "SIGTERM"])
def test_a_job_that_is_preempted_saves_its_work_and_goes_on(tmp_path, names):
    path, preempted = tmp_path / "log", []

    def preempt(name, event):
        for signal_name in () if preempted else names.split():
            os.kill(int((tmp_path / "process").read_text()), getattr(signal, signal_name))
            wait_for(lambda: "asked" in path.read_text())
        preempted.append(event.phase)
        (tmp_path / "all_signals").touch()

    (outcome,) = Slurm(tmp_path / "slurm", cluster="local").run(
        [Job("run", _saves_slowly_once, (path,))], preempt
    )
    assert outcome.error is None
    assert path.read_text().split() == ["begun", "asked", "saved", "begun", "saved"]
    assert ("lost its worker" in preempted) == (names == "SIGTERM"), "Slurm alone queues it again"


def _steps(listen, path, steps):
    """Does a step, the next one each time, and works until it is asked to stop; the last is the sixth."""
    path.with_name("process").write_text(str(os.getpid()))
    with stopping.deferred():
        _log(silent, path, "step")
        done = path.read_text().count("step")
        listen(Event("train", min(done, steps), 6, metrics={"try": done}))
        if done < 6:
            wait_for(stopping.requested)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "tries", "error"), [(6, 6, None), (2, 4, "run: lost its worker 2 times")])
def test_a_run_reaches_its_time_limit_as_often_as_it_gets_further(tmp_path, steps, tries, error):
    def time_limit(name, event):
        if event.phase == "train" and event.metrics["try"] < 6:
            os.kill(int((tmp_path / "process").read_text()), signal.SIGUSR2)

    # Of so few minutes, submitit takes each signal for that of the time limit.
    executor = Slurm(tmp_path / "slurm", cluster="local", retries=1, parameters={"timeout_min": 9})
    (outcome,) = executor.run([Job("run", _steps, (tmp_path / "log", steps))], time_limit)
    assert (outcome.error or "").startswith(error or "")
    assert (outcome.exit_code, (tmp_path / "log").read_text().count("step")) == (5 if error else 0, tries)


def _fails_once(listen, path, error):
    _log(listen, path, "begun")
    if path.read_text().count("begun") == 1:
        raise error


def test_a_job_that_somebody_stops_is_cancelled_where_slurm_queues_it_and_submitted_again(
    tmp_path, monkeypatch
):
    cancelled = []
    monkeypatch.setattr("submitit.local.debug.DebugJob.cancel", lambda job, check: cancelled.append(check))
    some = [Job("run", _fails_once, (tmp_path / "log", StoppedError("stopped by SIGTERM")))]
    outcomes, heard = _run(Slurm(tmp_path / "slurm", cluster="debug"), some)
    assert (outcomes["run"].error, cancelled) == (None, [False])
    assert ("run", Event("lost its worker", 1, 3, "stopped by SIGTERM")) in heard


def test_a_folder_that_a_lost_job_holds_is_asked_for_again_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_AGAIN", 0.0)
    some = [Job("run", _fails_once, (tmp_path / "log", LockedError("another process is writing here")))]
    outcomes, heard = _run(Slurm(tmp_path / "slurm", cluster="debug", retries=0), some)
    assert (outcomes["run"].error, "lost its worker" in {event.phase for _, event in heard}) == (None, False)
    (tmp_path / "log").unlink()
    monkeypatch.setattr(setbacks, "REFUSED", 0.0)
    outcomes, _ = _run(Slurm(tmp_path / "slurm", cluster="debug"), some)
    assert outcomes["run"].exit_code == LockedError.exit_code


@pytest.mark.slow
def test_a_study_that_ends_cancels_its_jobs_which_save(tmp_path):
    class Stop(Exception):  # noqa: N818 - stands for a signal
        pass

    def listen(name, event):
        raise Stop

    with pytest.raises(Stop):
        list(
            Slurm(tmp_path / "slurm", cluster="local").run(
                [Job("run", _saved_once, (tmp_path / "log",))], listen
            )
        )
    wait_for(lambda: (tmp_path / "log").read_text().split() == ["begun", "saved"])


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_slurm_is_asked_for(tmp_path):
    executor = Slurm(tmp_path, workers=8, threads=4, gpus=1, memory=3 << 29, parameters={"partition": "gpu"})
    assert executor.parameters == {
        "name": "robustlens",
        "timeout_min": 1440,
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "mem_gb": 1.5,
        "slurm_array_parallelism": 8,
        "slurm_partition": "gpu",
    }
    assert Slurm(tmp_path, parameters={"timeout_min": 60}).parameters["timeout_min"] == 60


def test_without_slurm_or_submitit_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="no Slurm here"):
        list(Slurm(tmp_path).run([], lambda name, event: None))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"no package .* pip install .*\[cluster\]"):
        list(Slurm(tmp_path).run([], lambda name, event: None))


def test_a_parameter_that_slurm_does_not_know_is_refused(tmp_path, monkeypatch):
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    executor = Slurm(tmp_path / "slurm", threads=3, parameters={"partition": "gpu"})
    asked = executor._executor(submitit)._executor.parameters
    assert (asked["partition"], asked["cpus_per_task"]) == ("gpu", 3)
    with pytest.raises(ConfigError, match=r"--slurm: .*colour") as caught:
        list(Slurm(tmp_path, parameters={"colour": 1}).run([], lambda name, event: None))
    assert "\n" not in str(caught.value)


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Commands of Slurm in a folder of their own; gives a function that sets what sbatch does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def does(*lines):
        for name in ("srun", "sbatch"):
            (folder / name).write_text("\n".join(["#!/bin/sh", *lines]), encoding="utf-8")
            (folder / name).chmod(0o755)

    return does


@pytest.mark.parametrize("runs", [1, 2])
def test_jobs_that_slurm_does_not_take_are_an_error_of_one_line(tmp_path, sbatch, runs):
    sbatch("echo 'sbatch: error: invalid partition: nope' >&2; echo 'sbatch: error: failed' >&2; exit 1")
    some = [Job(f"run-{number}", _bug) for number in range(runs)]
    with pytest.raises(ResourceError) as caught:
        _run(Slurm(tmp_path / "slurm"), some)
    assert str(caught.value) == (
        "executor: Slurm took no job (sbatch: error: invalid partition: nope; sbatch: error: failed); "
        "change its parameters with --slurm, or give --executor local"
    )


def test_a_run_that_slurm_does_not_take_again_is_lost_and_the_others_go_on(tmp_path, monkeypatch):
    def refuse(executor, task):
        refused.append(task.run)
        raise submitit.core.utils.FailedJobError("sbatch: error: Unable to contact slurm controller")

    refused = []
    monkeypatch.setattr(slurm, "_AGAIN", 0.0)
    monkeypatch.setattr("submitit.AutoExecutor.submit", refuse)
    some = [
        Job("run", _fails_once, (tmp_path / "log", StoppedError("stopped by SIGTERM"))),
        Job("other", _log, (tmp_path / "other", "fine")),
    ]
    outcomes, _ = _run(Slurm(tmp_path / "slurm", cluster="debug", retries=2), some)
    assert (outcomes["other"].error, refused) == (None, ["run", "run"])
    assert outcomes["run"] == Outcome(
        "run",
        "run: lost its worker 3 times (Slurm took no job: sbatch: error: Unable to contact slurm controller); "
        "look at that machine",
        5,
    )


def test_a_line_that_a_killed_job_left_torn_is_skipped(tmp_path):
    path, heard = tmp_path / "run.events", []
    tail = Tail(path)
    path.write_bytes(b'{"phase":"train","done":1,"to')
    tail.passed_to(heard.append)
    with path.open("ab") as file:
        file.write(b'{"phase":"train","done":2,"total":3}\n{"phase":"train","done":3,"total":3}\n\xff\n')
    tail.passed_to(heard.append)
    assert heard == [Event("train", 3, 3)]
