"""Slurm, by submitit's local and debug executors: no Slurm is needed."""

import os
import signal
import sys
import time

import pytest

from robustlens import stopping
from robustlens.errors import ConfigError, ResourceError
from robustlens.executors import Job, Resources
from robustlens.executors.slurm import Slurm
from robustlens.progress import Event

submitit = pytest.importorskip("submitit", reason="needs the extra cluster")
pytestmark = [
    pytest.mark.lasts(50),
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


@pytest.mark.slow
def test_a_job_that_is_preempted_saves_its_work_and_goes_on(tmp_path):
    def preempt(name, event):
        if not preempted:
            preempted.append(event)
            os.kill(int((tmp_path / "process").read_text()), signal.SIGUSR2)

    preempted = []
    (outcome,) = Slurm(tmp_path / "slurm", cluster="local").run(
        [Job("run", _saved_once, (tmp_path / "log",))], preempt
    )
    assert outcome.error is None
    assert (tmp_path / "log").read_text().split() == ["begun", "saved", "begun", "saved"]


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
