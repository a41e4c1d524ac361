"""Ray without a cluster: what is asked of it, what is tried again, and when a worker stops."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from robustlens import stopping
from robustlens.errors import ConfigError, LockedError, ResourceError, StoppedError
from robustlens.executors import Job, Resources, Shared, jobs, ray, ray_worker, setbacks
from robustlens.executors.places import Place
from robustlens.executors.ray import Ray
from robustlens.executors.ray_worker import Coordinator, stop_when_refused
from robustlens.progress import Event


class RayError(Exception):
    pass


class Lost(RayError):  # noqa: N818 - not only errors are lost
    pass


class RayTaskError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class Method:
    """A function that is called at once; Ray gives a reference to its value, or its error."""

    def __init__(self, cluster, function):
        self.cluster, self.function = cluster, function

    def options(self, **options):
        self.cluster.asked.append(options)
        return self

    def remote(self, *arguments):
        if isinstance(self.function, type):
            made = self.function(*arguments)
            return SimpleNamespace(
                **{n: Method(self.cluster, getattr(made, n)) for n in dir(made) if n[0] != "_"}
            )
        try:
            fate = self.cluster.fate() if self.function is ray.carry_out_there else None
            value = self.function(*arguments) if fate is None else fate
        except Exception as error:
            value = error
        return self.cluster.put(value)


@dataclass(frozen=True)
class Reference:
    cluster: Any = field(compare=False)
    place: int

    def future(self):
        value = Future()
        value.set_result(self.cluster.get(self))
        return value


class OneProcess:
    """A Ray that carries out each task at once in this process, and loses those that it is told to lose."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, OutOfMemoryError=OutOfMemoryError
    )

    def __init__(self, losses=(), cpus=2.0, gpus=0.0):
        self.losses, self.node = list(losses), {"CPU": cpus, "GPU": gpus, "memory": float(8 << 30)}
        self.asked, self.kept, self.puts = [], {}, []

    def fate(self):
        return self.losses.pop(0) if self.losses else None

    def remote(self, function):
        return Method(self, function)

    def put(self, value):
        self.kept[len(self.kept)] = value
        return Reference(self, len(self.kept) - 1)

    def get(self, reference, timeout=None):
        value = self.kept[reference.place]
        if isinstance(value, Exception):
            raise value
        return value

    def wait(self, references, num_returns=1, timeout=None):
        return references[:num_returns], references[num_returns:]

    def nodes(self):
        return [{"Alive": True, "Resources": self.node}]

    def cluster_resources(self):
        return self.node

    def is_initialized(self):
        return True

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "here")

    def cancel(self, reference, force):
        pass

    def kill(self, actor):
        pass


@pytest.fixture
def cluster(monkeypatch):
    """Ray is this one from now on; options are those of its class."""

    def begin(*arguments, **options):
        fake = OneProcess(*arguments, **options)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: None)
        modules = {"ray": fake, "ray.util.scheduling_strategies": strategies}
        stand_in = SimpleNamespace(import_module=lambda n: modules.get(n) or importlib.import_module(n))
        for module in (ray, ray_worker, jobs):
            monkeypatch.setattr(module, "importlib", stand_in)
        monkeypatch.setattr(ray_worker, "keep_memory", lambda: None)
        return fake

    return begin


def _log(listen, path, word):
    with path.open("a") as file:
        file.write(f"{word}\n")
    listen(Event(word, 1, 1))


def _wrong(listen, path):
    _log(listen, path, "wrong")
    raise ConfigError("a field is wrong")


def _busy(listen, path):
    _log(listen, path, "busy")
    if path.read_text().count("busy") < 3:
        raise LockedError("another process is writing here")


def _stopped(listen, path):
    _log(listen, path, "stopped")
    if path.read_text().count("stopped") < 2:
        raise StoppedError("stopped by SIGTERM")


def _chain(path, *works):
    names = [f"run: {number}" for number in range(len(works))]
    return [Job(names[n], *work, run="run", after=tuple(names[:n][-1:])) for n, work in enumerate(works)]


def _run(executor, some):
    heard = []
    outcomes = list(executor.run(some, lambda name, event: heard.append((name, event.phase))))
    return outcomes, heard


def test_the_jobs_of_a_run_come_one_after_the_other_and_make_one_outcome(cluster, tmp_path):
    cluster()
    path = tmp_path / "log"
    some = _chain(path, (_log, (path, "a")), (_log, (path, "b")))
    (outcome,), heard = _run(Ray(), some[::-1])  # their order is said by `after` alone
    assert (outcome.name, outcome.error) == ("run", None)
    assert path.read_text().split() == ["a", "b"]
    assert heard == [("run", "a"), ("run", "b"), ("run", "done")]


def test_an_error_of_a_job_is_an_outcome_and_no_reason_to_try_again(cluster, tmp_path):
    cluster()
    path = tmp_path / "log"
    some = [*_chain(path, (_wrong, (path,)), (_log, (path, "b"))), Job("other", _log, (path, "other"))]
    outcomes, heard = _run(Ray(), some)
    assert {o.name: (o.error, o.exit_code) for o in outcomes} == {
        "run": ("a field is wrong", 2),
        "other": (None, 0),
    }
    assert path.read_text().split() == ["wrong", "other"]
    assert ("run", "ended") in heard


def test_a_job_that_is_lost_is_begun_again_so_many_times(cluster, tmp_path):
    path = tmp_path / "log"
    cluster([Lost("node died\nand more"), Lost("worker crashed")])
    (outcome,), heard = _run(Ray(retries=2), [Job("run", _log, (path, "a"))])
    assert outcome.error is None
    assert path.read_text().split() == ["a"]
    assert [phase for _, phase in heard] == ["lost its worker", "lost its worker", "a", "done"]
    cluster([Lost("node died\nand more")] * 3)
    (outcome,), _ = _run(Ray(retries=2), [Job("run", _log, (path, "b"))])
    assert (outcome.exit_code, path.read_text().split()) == (5, ["a"])
    assert outcome.error == "run: lost its worker 3 times (node died); look at that machine"


def test_a_worker_that_somebody_else_stops_is_lost(cluster, tmp_path):
    cluster()
    (outcome,), heard = _run(Ray(), [Job("run", _stopped, (tmp_path / "log",))])
    assert (outcome.error, ("run", "lost its worker") in heard) == (None, True)


def _stopped_at_each_step(listen, path):
    _log(listen, path, "step")
    steps = path.read_text().count("step")
    listen(Event("train", steps, 4, metrics={"loss": 0.5}))
    if steps < 4:
        raise StoppedError("stopped by SIGTERM")


def test_a_run_that_gets_further_is_stopped_as_often_as_somebody_likes(cluster, tmp_path):
    cluster()
    (outcome,), heard = _run(Ray(retries=1), [Job("run", _stopped_at_each_step, (tmp_path / "log",))])
    assert (outcome.error, heard.count(("run", "lost its worker"))) == (None, 3)


def test_a_folder_that_a_lost_worker_holds_is_asked_for_again_for_a_while(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "_AGAIN", 0.0)
    cluster()
    path = tmp_path / "log"
    (outcome,), _ = _run(Ray(retries=0), [Job("run", _busy, (path,))])
    assert (outcome.error, path.read_text().count("busy")) == (None, 3)
    monkeypatch.setattr(setbacks, "REFUSED", 0.0)
    path.unlink()
    (outcome,), _ = _run(Ray(), [Job("run", _busy, (path,))])
    assert (outcome.exit_code, path.read_text().count("busy")) == (6, 1)


def test_a_bug_and_a_full_memory_end_the_run(cluster, tmp_path, capsys):
    cluster([RayTaskError("ZeroDivisionError"), OutOfMemoryError("killed")])
    some = [Job(name, _log, (tmp_path / "log", "a")) for name in ("bug", "hungry")]
    outcomes, _ = _run(Ray(workers=1), some)
    assert [(o.exit_code, o.name) for o in outcomes] == [(1, "bug"), (5, "hungry")]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert "ran out of memory" in outcomes[1].error


@pytest.mark.parametrize(
    ("given", "device", "gpus", "visible"),
    [
        ({}, True, 0.0, ""),
        ({"use_gpus": True}, True, 1.0, None),
        ({"use_gpus": True, "runs_per_device": 4}, True, 0.25, None),
        ({"use_gpus": True}, False, 0.0, ""),
    ],
)
def test_what_a_job_asks_for(cluster, tmp_path, given, device, gpus, visible):
    fake = cluster(gpus=4.0 if given else 0.0, cpus=8.0)
    job = Job("run", _log, (tmp_path / "log", "a"), resources=Resources(device=device))
    _run(Ray(threads=3, memory=1 << 30, **given), [job])
    asked = fake.asked[-1]
    variables = asked["runtime_env"]["env_vars"]
    assert (asked["num_cpus"], asked["num_gpus"], asked["memory"]) == (3, gpus, 1 << 30)
    assert asked["max_retries"] == 0, "Ray would begin again what failed"
    assert (variables["OMP_NUM_THREADS"], variables.get("CUDA_VISIBLE_DEVICES")) == ("3", visible)


def test_a_run_keeps_its_threads_on_a_machine_of_fewer_cpus(cluster, tmp_path):
    fake = cluster(cpus=2.0)
    job = Job("run", _log, (tmp_path / "log", "a"), resources=Resources(threads=5))
    _run(Ray(), [job])
    assert (fake.asked[-1]["num_cpus"], fake.asked[-1]["runtime_env"]["env_vars"]["OMP_NUM_THREADS"]) == (
        2,
        "5",
    )


def test_devices_are_used_where_the_cluster_has_some(cluster, tmp_path):
    job = Job("run", _log, (tmp_path / "log", "a"))
    for gpus, asked, expected in ((2.0, None, 1.0), (2.0, False, 0.0), (0.0, None, 0.0)):
        fake = cluster(gpus=gpus)
        _run(Ray(use_gpus=asked), [job])
        assert fake.asked[-1]["num_gpus"] == expected


@pytest.mark.parametrize("given", [{"threads": 3}, {"use_gpus": True}, {"memory": 9 << 30}])
def test_what_no_machine_has_is_refused(cluster, tmp_path, given):
    cluster()
    with pytest.raises(ResourceError, match="on one machine, found 2 CPUs, 0 GPUs and 8 GiB") as caught:
        _run(Ray(**given), [Job("run", _log, (tmp_path / "log", "a"))])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "log").exists()


class _Made:
    count = 0

    def __call__(self):
        type(self).count += 1
        return self.count


def _write(listen, path, shared):
    _log(listen, path, str(shared.value()))


def test_shared_values_are_made_once_where_the_study_runs_or_once_by_a_process(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(_Made, "count", 0)
    monkeypatch.setattr(jobs.Shared, "_latest", ("", None))
    cluster()
    path, shared = tmp_path / "log", Shared(_Made())
    some = [Job(f"{n}", _write, (path, shared)) for n in range(3)]
    _run(Ray(workers=1), some)
    assert path.read_text().split() == ["1", "1", "1"]
    path.unlink()
    fake = cluster()
    sent = Shared(_Made())
    _run(Ray(workers=1, send_data=True), [Job(f"{n}", _write, (path, sent)) for n in range(3)])
    assert path.read_text().split() == ["2", "2", "2"]
    assert list(fake.kept.values()).count(2) == 1, "sent once"


def test_a_coordinator_hears_the_attempt_that_counts_alone():
    coordinator, event = Coordinator(), Event("train", 1, 2)
    coordinator.assign("run", 1)
    coordinator.tell("run", 1, event)
    coordinator.assign("run", 2)
    coordinator.tell("run", 1, Event("late", 1, 2))
    assert [coordinator.is_current("run", number) for number in (1, 2)] == [False, True]
    assert (coordinator.take(), coordinator.take()) == ([("run", event)], [])
    coordinator.close()
    assert not coordinator.is_current("run", 2)


@pytest.mark.parametrize("answers", [[True, False], [True, None, None]])
def test_a_worker_stops_where_its_job_is_another_s_or_nobody_answers(answers, monkeypatch):
    monkeypatch.setattr(ray_worker, "_BEAT", 0.001)
    monkeypatch.setattr(ray_worker, "_SILENCE", 0.05)
    left = iter([*answers, *[answers[-1]] * 10_000])
    watcher = threading.Thread(target=stop_when_refused, args=(lambda: next(left), threading.Event()))

    def work():
        watcher.start()  # from here on, it may stop this
        time.sleep(60)

    with stopping.handled(worker=True), pytest.raises(StoppedError):
        work()
    watcher.join()


def test_a_worker_goes_on_until_its_job_has_ended(monkeypatch):
    monkeypatch.setattr(ray_worker, "_BEAT", 0.001)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("stopped"))
    ended, answers = threading.Event(), iter(range(1, 100))

    def ask():
        number = next(answers)
        if number == 50:
            ended.set()
        return True if number % 2 else None

    stop_when_refused(ask, ended)
    assert ended.is_set()


def test_a_machine_without_the_folder_or_of_another_version_is_refused(tmp_path):
    here = Place.here()
    assert here.problem() == ""
    assert "found no folder" in replace(here, folder=str(tmp_path / "none")).problem()
    assert "expected 0.0.0 as where the study runs" in replace(here, version="0.0.0").problem()


def test_without_ray_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"no package .* pip install .*\[cluster\]") as caught:
        list(Ray().run([], lambda name, event: None))
    assert "\n" not in str(caught.value)


def test_nothing_but_the_executor_of_clusters_imports_their_packages():
    program = (
        "import sys, robustlens.executors, robustlens.executors.ray, robustlens.cli.executors;"
        "sys.exit(any(name in sys.modules for name in ('ray', 'submitit')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_signals_are_ours(cluster):
    """Ray sets a handler of its own when it connects."""
    before = signal.getsignal(signal.SIGTERM)
    fake = cluster()
    fake.is_initialized = lambda: False
    fake.init = lambda **_: signal.signal(signal.SIGTERM, lambda *_: None)
    fake.shutdown = lambda: None
    assert list(Ray().run([], lambda name, event: None)) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kind", [ConnectionError, ValueError, RuntimeError, RayError])
def test_a_cluster_that_cannot_be_reached_is_an_error_of_one_line(cluster, kind):
    """A token that it does not take is a RayError, an address that is none a ValueError."""

    def refuse(**_):
        raise kind("no cluster\nand more")

    fake = cluster()
    fake.is_initialized = lambda: False
    fake.init = refuse
    with pytest.raises(ResourceError, match=r"no Ray cluster at '1\.2\.3\.4:5' \(no cluster\); start one"):
        list(Ray("1.2.3.4:5").run([], lambda name, event: None))
